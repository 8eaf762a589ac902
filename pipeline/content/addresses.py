"""Check email addresses and texts of headers. Pure.

The dialects, the `brands` commands and the import of suppressions call it. It refuses what would be a mistake or an
attack further on: line breaks, lengths, a domain that DNS can't resolve. Whether the mailbox exists is known only after
sending.
"""

import re
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import Final

from pipeline.content.domains import MAX_DOMAIN_CHARS, InvalidDomain, to_ascii

LOCAL_PART_MAX_OCTETS: Final = 64
"""RFC 5321 §4.5.3.1.1."""
ADDRESS_MAX_OCTETS: Final = 254
"""RFC 5321 §4.5.3.1.3: a path of 256 octets, less its angle brackets."""
HEADER_TEXT_MAX_CHARS: Final = 998
"""The longest line of RFC 5322 §2.1.1; mail clients show less than that."""

_NO_DOMAIN: Final = "not a domain name after the @"

# RFC 5322 §3.2.3's dot-atom. Quoted local parts are legal, but no real mailbox has one: most are attacks.
_LOCAL_PART: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")

# All that str.splitlines, with which Python's email package folds headers, takes for a line break, and other control
# characters. Tabs are allowed: they are white space in a header.
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def address_problem(address: str, *, smtputf8: bool = False) -> str | None:
    """Return why no mail can be sent to ``address``; None if it can.

    ``smtputf8``: a local part may have letters beyond ASCII (RFC 6531), which only some servers take.
    """
    # The size is checked first, because the time of all other checks grows with it.
    if len(address) > LOCAL_PART_MAX_OCTETS + 1 + MAX_DOMAIN_CHARS:
        return f"more than {ADDRESS_MAX_OCTETS} octets"
    local, at, domain = address.rpartition("@")
    if not at or not local or not domain:
        return "not an email address"
    return _local_problem(local, smtputf8=smtputf8) or _domain_problem(domain, local)


def _local_problem(local: str, *, smtputf8: bool) -> str | None:
    if len(local.encode("utf-8", "surrogatepass")) > LOCAL_PART_MAX_OCTETS:
        return f"more than {LOCAL_PART_MAX_OCTETS} octets before the @"
    if not _is_local(local, smtputf8=smtputf8) or _UNPRINTABLE.search(_decoded(local)):
        return "characters before the @ that can't be taken"
    return None


def _domain_problem(domain: str, local: str) -> str | None:
    try:
        ascii_domain = to_ascii(domain)
    except InvalidDomain as error:
        return _NO_DOMAIN if domain.isascii() else f"{_NO_DOMAIN}: {error}"
    labels = ascii_domain.split(".")
    # A single label can't be resolved from other networks; 192.0.2.1 is an IP address.
    if len(labels) < 2 or labels[-1].isdecimal():
        return _NO_DOMAIN
    if len(local.encode()) + 1 + len(ascii_domain) > ADDRESS_MAX_OCTETS:
        return f"more than {ADDRESS_MAX_OCTETS} octets"
    return None


def _is_local(local: str, *, smtputf8: bool) -> bool:
    """Return whether this is a dot-atom; RFC 6531 allows a printable non-ASCII character wherever a letter may be."""
    if smtputf8:
        local = "".join("a" if char > "\x7f" and char.isprintable() else char for char in local)
    return _LOCAL_PART.fullmatch(local) is not None


def header_text_problem(text: str) -> str | None:
    """Return why ``text`` can't be used in a header; None if it can."""
    # The size is checked first: decoding RFC 2047's words is quadratic in their number.
    if len(text) > HEADER_TEXT_MAX_CHARS:
        return f"more than {HEADER_TEXT_MAX_CHARS} characters"
    if _UNPRINTABLE.search(text) or _UNPRINTABLE.search(_decoded(text)):
        return "a line break or control character"
    return None


def _decoded(text: str) -> str:
    """Return the text with RFC 2047's encoded words decoded, which may contain a line break; "" if it has none."""
    if "=?" not in text:
        return ""
    try:
        return str(make_header(decode_header(text)))
    except (HeaderParseError, LookupError, ValueError):
        return ""
