"""Add signed click links, the tracking pixel and a trap link to HTML. Pure; the dispatcher calls it.

The HTML isn't parsed and written again, because senders' markup is full of constructs that only some mail clients
understand: only the values of `href` change, and every other byte stays.
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
from pipeline.runtime.secrets.signing import Signer
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
"""Tokens within a conditional comment, which can't contain another comment."""
_ENDING: Final = rf"/(?i:body|html){NAME_END}"
_END_TOKENS: Final = re.compile(
    rf"{skipped_run_pattern(_ENDING)}|</(?:(?P<body>(?i:body))|(?P<html>(?i:html))){NAME_END}{ATTRIBUTES}>"
    rf"|{RAW_TEXT}|{COMMENT}|{BOGUS_COMMENT}|{UNCLOSED}",
    re.DOTALL,
)
_WEB_URL: Final = re.compile(r"https?://[^/]", re.IGNORECASE)
_TEMPLATE_MARKS: Final = ("{{", "{%", "[[", "<%", "*|", "|*", "%%", "${")
"""Marks of values that a sending service fills in later; a signed copy of such a link would lead nowhere."""
_CONTROLS_AND_SPACE: Final = "".join(map(chr, range(0x21)))
TRACKING_HASH_PLACEHOLDER: Final = "mailfold-tracking-hash-of-this-email"
"""Text in place of an email's tracking hash in a rendered content, which many emails share."""
_MAX_LINK_NUMBER: Final = 0xFFFF
"""The largest number of a link: a token has two bytes for it."""


def with_tracking_hash(text: str, signer: Signer, email_id: EmailId) -> str:
    """Return the text with the email's tracking hash wherever the content's template names it."""
    return (
        text.replace(TRACKING_HASH_PLACEHOLDER, pixel_token(signer, email_id))
        if TRACKING_HASH_PLACEHOLDER in text
        else text
    )


def with_click_links(markup: str, signer: Signer, email_id: EmailId, public_url: str) -> str:
    """Return the markup with each http(s) link of an `a`, `area` or VML shape replaced by `{public_url}/c/{token}`.

    The links are numbered from 0 in their order.
    """
    base = public_url.rstrip("/")
    number = 0

    def click_url(target: str) -> str | None:
        nonlocal number
        url = _trackable_url(target, base)
        if url is None or number > _MAX_LINK_NUMBER:
            return None
        token = click_token(signer, email_id, number, url)
        number += 1
        return f"{base}/c/{token}"

    return _with_replaced_links(_TAGS, markup, click_url)


def with_pixel(markup: str, signer: Signer, email_id: EmailId, public_url: str) -> str:
    """Return the markup with the tracking pixel as the last element of the body, or at the end without `</body>`."""
    source = f"{public_url.rstrip('/')}/o/{pixel_token(signer, email_id)}.gif"
    return _insert_at_end(markup, f'<img src="{html.escape(source)}" width="1" height="1" alt="" style="border:0">')


def with_trap_link(markup: str, signer: Signer, email_id: EmailId, public_url: str) -> str:
    """Return the markup with a link that no person sees, hears or reaches by keyboard: only a bot follows it."""
    target = html.escape(f"{public_url.rstrip('/')}/t/{trap_token(signer, email_id)}")
    return _insert_at_end(markup, f'<a href="{target}" style="display:none" tabindex="-1" aria-hidden="true"></a>')


def _insert_at_end(markup: str, element: str) -> str:
    end = _end_of_body(markup)
    return markup[:end] + element + markup[end:]


def _end_of_body(markup: str) -> int:
    """Return the position of the last `</body>`, or else of the last `</html>`, or else the end of the text.

    An unclosed construct, such as a comment, contains all that follows it, so the end is before it.
    """
    ends: dict[str, int] = {}
    for token in _END_TOKENS.finditer(markup):
        kind = token.lastgroup
        if kind in ("body", "html", "unclosed"):
            ends[kind] = token.start()
    return ends.get("body", ends.get("html", ends.get("unclosed", len(markup))))


def _with_replaced_links(tags: "re.Pattern[str]", markup: str, replace: Callable[[str], str | None]) -> str:
    """Return the markup with its links replaced; ``replace`` returns None for a target that stays."""
    pieces: list[str] = []
    copied = 0
    for token in tags.finditer(markup):
        # Most tokens contain no link: they are copied with the text around them.
        kind = token.lastgroup
        if kind == "link":
            piece = _with_replaced_link(token[0], len(token[kind]), replace)
        elif kind == "conditional":
            piece = f"{token[0][:7]}{_with_replaced_links(_OUTLOOK_TAGS, token[kind], replace)}-->"
        else:
            continue
        pieces += [markup[copied : token.start()], piece]
        copied = token.end()
    return "".join([*pieces, markup[copied:]])


def _with_replaced_link(tag: str, start: int, replace: Callable[[str], str | None]) -> str:
    """Return the tag with its `href` replaced; ``start`` is the position after the tag's name."""
    span = attribute_span(tag, start, "href")
    if span is None:
        return tag
    url = replace(attribute_value(tag[span[0] : span[1]]))
    return tag if url is None else f'{tag[: span[0]]}"{html.escape(url)}"{tag[span[1] :]}'


def _trackable_url(value: str, base: str) -> str | None:
    """Return the URL of an `href` to track; None for our own links, marks of templates, and other schemes."""
    # Browsers remove tabs and line breaks from URLs (URL standard, "basic URL parser").
    url = re.sub(r"[\t\r\n]", "", value).strip(_CONTROLS_AND_SPACE)
    ours = url.startswith((base + "/c/", base + "/u/", base + "/t/"))
    if ours or not _WEB_URL.match(url) or any(mark in url for mark in _TEMPLATE_MARKS):
        return None
    try:
        url.encode()
    except UnicodeEncodeError:
        return None
    return url
