"""HTML in, the same HTML with signed click links, the pixel and a trap out. Pure; every other byte stays.

Not a parser that writes HTML anew: senders' markup is full of what only their readers'
clients understand, so only the values of `href` change.
"""

import html
import re
from collections.abc import Callable
from typing import Final

from pipeline.signing import Signer
from pipeline.tokens import click_token, pixel_token, trap_token
from topics.record import EmailId

# Whatever is begun ends at its end or at the text's: nothing is looked at twice, so that no markup,
# however broken, costs more than its length.
_ATTRIBUTES: Final = r"""(?:[^>"']|"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z))*+"""
_TAGS: Final = re.compile(
    # Conditional comments are markup to Outlook, so only their delimiters are comments.
    r"<!--(?!\[if)(?:[^-]|-(?!->))*+(?:-->|\Z)"
    r"|<(script|style|textarea|title)\b(?:[^<]|<(?!/\1))*+(?:</\1|\Z)"
    rf"|<(?:a|area|v:\w+)(?=[\s/]){_ATTRIBUTES}(?:>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_ATTRIBUTE: Final = re.compile(r"""([^\s"'>/=]+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+))?""")
_WEB: Final = re.compile(r"https?://[^/]", re.IGNORECASE)
_PLACEHOLDERS: Final = ("{{", "{%", "[[", "<%", "*|", "|*", "%%", "${")
"""What some later hand will fill in; a signed copy of it would lead nowhere."""
_BODY_END: Final = re.compile(r"</body\s*>", re.IGNORECASE)
_HTML_END: Final = re.compile(r"</html\s*>", re.IGNORECASE)
TRACKING_MARK: Final = "mailfold-tracking-hash-of-this-email"
"""Stands in a rendered content, which many emails share, where each of them has a hash of its own."""
_LAST_LINK: Final = 0xFFFF
"""A token has two bytes for the link's number."""


def with_tracking_hash(text: str, signer: Signer, email_id: EmailId) -> str:
    """The hash that names this email, wherever the content's template asked for it."""
    return text.replace(TRACKING_MARK, pixel_token(signer, email_id)) if TRACKING_MARK in text else text


def with_clicks(markup: str, signer: Signer, email_id: EmailId, public_url: str) -> str:
    """Each http(s) link of an `a`, `area` or VML shape leads by way of `{public_url}/c/…`, in order numbered from 0."""
    base = public_url.rstrip("/")
    number = 0

    def link(target: str) -> str | None:
        nonlocal number
        url = _target(target, base)
        if url is None or number > _LAST_LINK:
            return None
        token = click_token(signer, email_id, number, url)
        number += 1
        return f"{base}/c/{token}"

    return _TAGS.sub(lambda tag: _with_links(tag[0], link), markup)


def with_pixel(markup: str, signer: Signer, email_id: EmailId, public_url: str) -> str:
    """The tracking pixel as the body's last element; at the end where the body has none."""
    source = f"{public_url.rstrip('/')}/o/{pixel_token(signer, email_id)}.gif"
    return _at_end(markup, f'<img src="{html.escape(source)}" width="1" height="1" alt="" style="border:0">')


def with_trap(markup: str, signer: Signer, email_id: EmailId, public_url: str) -> str:
    """A link that no human sees, hears or reaches by keyboard: who follows it follows whatever there is."""
    target = html.escape(f"{public_url.rstrip('/')}/t/{trap_token(signer, email_id)}")
    return _at_end(markup, f'<a href="{target}" style="display:none" tabindex="-1" aria-hidden="true"></a>')


def _at_end(markup: str, element: str) -> str:
    ends = list(_BODY_END.finditer(markup)) or list(_HTML_END.finditer(markup))
    place = ends[-1].start() if ends else len(markup)
    return markup[:place] + element + markup[place:]


def _with_links(tag: str, link: Callable[[str], str | None]) -> str:
    if tag.startswith("<!") or tag[1:2].lower() in "st" or not tag.endswith(">"):
        return tag
    start = re.match(r"<[\w:]+", tag)
    assert start is not None  # the pattern says so
    for attribute in _ATTRIBUTE.finditer(tag, start.end()):
        if attribute[1].lower() == "href" and attribute[2]:
            # The first of two is the one that browsers take.
            found = link(html.unescape(attribute[2].strip("\"'")))
            if found is None:
                return tag
            return f'{tag[: attribute.start(2)]}"{html.escape(found)}"{tag[attribute.end(2) :]}'
    return tag


def _target(value: str, base: str) -> str | None:
    # Browsers drop tabs and line breaks from addresses (URL standard, "basic URL parser").
    url = re.sub(r"[\t\r\n]", "", value).strip(" \0\x0b\x0c\x1f")
    ours = url.startswith((base + "/c/", base + "/u/", base + "/t/"))
    if ours or not _WEB.match(url) or any(mark in url for mark in _PLACEHOLDERS):
        return None
    try:
        url.encode()
    except UnicodeEncodeError:
        return None
    return url
