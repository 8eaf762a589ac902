"""HTML in, the same HTML with signed click links, the pixel and a trap out. Pure; every other byte stays.

Not a parser that writes HTML anew: senders' markup is full of what only their readers'
clients understand, so only the values of `href` change.
"""

import html
import re
from collections.abc import Callable
from typing import Final

from pipeline.content.markup import (
    ATTRIBUTES,
    BOGUS_COMMENT,
    COMMENT,
    CONDITIONAL,
    NAME_END,
    RAW_TEXT,
    UNCLOSED,
    attribute_span,
    attribute_value,
    skipped_run_pattern,
)
from pipeline.content.tokens import click_token, pixel_token, trap_token
from pipeline.runtime.signing import Signer
from topics.record import EmailId

_LINK_TAG_NAMES: Final = r"(?:[aA](?:[rR][eE][aA])?|[vV]:[^\t\n\f\r />]++)(?=[\t\n\f\r /])"
_LINK: Final = rf"(?P<link><{_LINK_TAG_NAMES}){ATTRIBUTES}>"
_TAGS: Final = re.compile(
    rf"{skipped_run_pattern(_LINK_TAG_NAMES)}|{_LINK}|{RAW_TEXT}|{CONDITIONAL}|{COMMENT}|{BOGUS_COMMENT}|{UNCLOSED}",
    re.DOTALL,
)
_OUTLOOK_TAGS: Final = re.compile(
    rf"{skipped_run_pattern(_LINK_TAG_NAMES)}|{_LINK}|{RAW_TEXT}|<[a-zA-Z/].*+", re.DOTALL
)
"""Within a conditional comment, where no other comment can be."""
_ENDING: Final = rf"/(?i:body|html){NAME_END}"
_END_TOKENS: Final = re.compile(
    rf"{skipped_run_pattern(_ENDING)}|</(?:(?P<body>(?i:body))|(?P<html>(?i:html))){NAME_END}{ATTRIBUTES}>"
    rf"|{RAW_TEXT}|{COMMENT}|{BOGUS_COMMENT}|{UNCLOSED}",
    re.DOTALL,
)
_WEB_URL: Final = re.compile(r"https?://[^/]", re.IGNORECASE)
_TEMPLATE_MARKS: Final = ("{{", "{%", "[[", "<%", "*|", "|*", "%%", "${")
"""What some later hand will fill in; a signed copy of it would lead nowhere."""
_CONTROLS_AND_SPACE: Final = "".join(map(chr, range(0x21)))
TRACKING_HASH_PLACEHOLDER: Final = "mailfold-tracking-hash-of-this-email"
"""Stands in a rendered content, which many emails share, where each of them has a hash of its own."""
_MAX_LINK_NUMBER: Final = 0xFFFF
"""A token has two bytes for the link's number."""


def with_tracking_hash(text: str, signer: Signer, email_id: EmailId) -> str:
    """The hash that names this email, wherever the content's template asked for it."""
    return (
        text.replace(TRACKING_HASH_PLACEHOLDER, pixel_token(signer, email_id))
        if TRACKING_HASH_PLACEHOLDER in text
        else text
    )


def with_click_links(markup: str, signer: Signer, email_id: EmailId, public_url: str) -> str:
    """Each http(s) link of an `a`, `area` or VML shape leads by way of `{public_url}/c/…`, in order numbered from 0."""
    base = public_url.rstrip("/")
    number = 0

    def link(target: str) -> str | None:
        nonlocal number
        url = _target(target, base)
        if url is None or number > _MAX_LINK_NUMBER:
            return None
        token = click_token(signer, email_id, number, url)
        number += 1
        return f"{base}/c/{token}"

    return _with_links(_TAGS, markup, link)


def with_pixel(markup: str, signer: Signer, email_id: EmailId, public_url: str) -> str:
    """The tracking pixel as the body's last element; at the end where the body has none."""
    source = f"{public_url.rstrip('/')}/o/{pixel_token(signer, email_id)}.gif"
    return _at_end(markup, f'<img src="{html.escape(source)}" width="1" height="1" alt="" style="border:0">')


def with_trap_link(markup: str, signer: Signer, email_id: EmailId, public_url: str) -> str:
    """A link that no human sees, hears or reaches by keyboard: who follows it follows whatever there is."""
    target = html.escape(f"{public_url.rstrip('/')}/t/{trap_token(signer, email_id)}")
    return _at_end(markup, f'<a href="{target}" style="display:none" tabindex="-1" aria-hidden="true"></a>')


def _at_end(markup: str, element: str) -> str:
    place = _end_of_body(markup)
    return markup[:place] + element + markup[place:]


def _end_of_body(markup: str) -> int:
    """Return where the last `</body>` is, or else the last `</html>`, or else where the text ends.

    What is never closed, such as a comment, takes in all that follows it: then the end is before it.
    """
    ends: dict[str, int] = {}
    for token in _END_TOKENS.finditer(markup):
        kind = token.lastgroup
        if kind in ("body", "html", "unclosed"):
            ends[kind] = token.start()
    return ends.get("body", ends.get("html", ends.get("unclosed", len(markup))))


def _with_links(tags: "re.Pattern[str]", markup: str, link: Callable[[str], str | None]) -> str:
    pieces: list[str] = []
    copied = 0
    for token in tags.finditer(markup):
        # Most tokens are none of ours: nothing is copied or looked up for them.
        kind = token.lastgroup
        if kind == "link":
            piece = _with_link(token[0], len(token[kind]), link)
        elif kind == "conditional":
            piece = f"{token[0][:7]}{_with_links(_OUTLOOK_TAGS, token[kind], link)}-->"
        else:
            continue
        pieces += [markup[copied : token.start()], piece]
        copied = token.end()
    return "".join([*pieces, markup[copied:]])


def _with_link(tag: str, start: int, link: Callable[[str], str | None]) -> str:
    span = attribute_span(tag, start, "href")
    if span is None:
        return tag
    found = link(attribute_value(tag[span[0] : span[1]]))
    return tag if found is None else f'{tag[: span[0]]}"{html.escape(found)}"{tag[span[1] :]}'


def _target(value: str, base: str) -> str | None:
    # Browsers drop tabs and line breaks from addresses (URL standard, "basic URL parser").
    url = re.sub(r"[\t\r\n]", "", value).strip(_CONTROLS_AND_SPACE)
    ours = url.startswith((base + "/c/", base + "/u/", base + "/t/"))
    if ours or not _WEB_URL.match(url) or any(mark in url for mark in _TEMPLATE_MARKS):
        return None
    try:
        url.encode()
    except UnicodeEncodeError:
        return None
    return url
