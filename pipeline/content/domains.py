"""Convert domain names to ASCII for DNS and SMTP: IDNA 2008 with UTS #46's mapping, non-transitional. Pure.

The address checks, the MIME writer and suppression keys (`pipeline.runtime.secrets.signing`) use it, so that all mean
the same domain. The size is checked first, because IDNA's own checks take more than linear time.
"""

import functools
import re
import unicodedata
from typing import Final

import idna

MAX_DOMAIN_CHARS: Final = 253
"""RFC 1035 §2.3.4: 255 octets with the root label and the first length octet."""
MAX_LABEL_CHARS: Final = 63
MAX_CACHED_DOMAINS: Final = 4096
"""Domains whose ASCII forms are cached; each has at most MAX_DOMAIN_CHARS, so the cache takes a few MB at most."""

# Letters, digits, hyphens, and underscores, which DNS allows and some mail hosts have in their names.
_ASCII_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?")
_SYMBOL: Final = "So"
"""Unicode's category of emoji. IDNA 2008 allows none, but registries sell such domains and browsers open them."""


class InvalidDomain(ValueError):
    """A text that is no domain name; the error message gives the reason without the text."""


def to_ascii(domain: str) -> str:
    """Return the domain in lower case with A-labels. Raise InvalidDomain.

    ASCII labels, A-labels included, are not validated further: only DNS knows whether one exists.
    """
    if len(domain) > MAX_DOMAIN_CHARS:
        raise InvalidDomain(f"more than {MAX_DOMAIN_CHARS} characters")
    encoded, problem = _encoded(domain)
    if problem:
        raise InvalidDomain(problem)
    return encoded


def to_unicode(domain: str) -> str:
    """Return what to_ascii returned with its A-labels decoded; a label that can't be decoded stays."""
    return ".".join(_decode_label(label) for label in domain.split("."))


@functools.lru_cache(maxsize=MAX_CACHED_DOMAINS)
def _encoded(domain: str) -> tuple[str, str]:
    """Return the ASCII form and an empty text, or an empty text and the problem; the caller checked the length."""
    try:
        mapped = domain.lower() if domain.isascii() else _mapped(domain)
        encoded = ".".join(_encode_label(label) for label in mapped.split("."))
    except InvalidDomain as error:
        return "", str(error)
    if len(encoded) > MAX_DOMAIN_CHARS:
        return "", f"more than {MAX_DOMAIN_CHARS} characters"
    return encoded, ""


def _mapped(domain: str) -> str:
    """Return the domain after UTS #46's mapping: lower case, NFC, full-width characters as plain ones."""
    try:
        mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False)
    except (idna.IDNAError, ValueError, IndexError) as error:
        raise InvalidDomain(_reason(error)) from None
    if len(mapped) > MAX_DOMAIN_CHARS:  # one character may become up to 18
        raise InvalidDomain(f"more than {MAX_DOMAIN_CHARS} characters")
    return mapped


def _encode_label(label: str) -> str:
    if not label:
        raise InvalidDomain("an empty label")
    if len(label) > MAX_LABEL_CHARS:
        raise InvalidDomain(f"a label of more than {MAX_LABEL_CHARS} characters")
    if label.isascii():
        if not _ASCII_LABEL.fullmatch(label):
            raise InvalidDomain("a label with characters that DNS does not have, or a hyphen at its end")
        return label
    if any(unicodedata.category(character) == _SYMBOL for character in label):
        return _encode_emoji_label(label)
    try:
        return idna.alabel(label).decode("ascii")
    except (idna.IDNAError, ValueError, IndexError) as error:
        raise InvalidDomain(_reason(error)) from None


def _encode_emoji_label(label: str) -> str:
    """Return the A-label of a label with emoji, as browsers do; its other characters must be valid in IDNA 2008."""
    letters = "".join(character for character in label if unicodedata.category(character) != _SYMBOL)
    if letters and not letters.isascii():
        _encode_label(letters)
    if not re.fullmatch(r"[a-z0-9-]*", letters) and letters.isascii():
        raise InvalidDomain("a label with characters that DNS does not have")
    if label.startswith("-") or label.endswith("-") or label[2:4] == "--":
        raise InvalidDomain("a hyphen at a label's end")
    encoded = "xn--" + label.encode("punycode").decode("ascii")
    if len(encoded) > MAX_LABEL_CHARS:
        raise InvalidDomain(f"a label of more than {MAX_LABEL_CHARS} characters")
    return encoded


def _decode_label(label: str) -> str:
    if not label.startswith("xn--") or len(label) > MAX_LABEL_CHARS:
        return label
    try:
        return label[4:].encode("ascii").decode("punycode") or label
    except (UnicodeError, ValueError, OverflowError):
        return label


def _reason(error: Exception) -> str:
    """Return a reason with the refused code point, if the library names one, and never with the domain itself."""
    code_point = re.search(r"U\+[0-9A-F]{4,6}", str(error)[:400])
    return f"{code_point[0]} is not allowed there" if code_point else "not a valid internationalized label"
