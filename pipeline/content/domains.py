"""Internet domain names in ASCII as DNS and SMTP carry them: IDNA 2008 with UTS #46's mapping, non-transitional.

Used by the address checks, by the MIME writer and for suppression keys, so that all three mean the same domain.
Size is checked before anything else: IDNA's own checks take more than linear time.
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
"""Each at most MAX_DOMAIN_CHARS long, so the cache holds a few MB at most."""

# Letters, digits and hyphens; underscores too, which DNS carries and some mail hosts have in their names.
_ASCII_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?")
_SYMBOL: Final = "So"
"""Unicode's category of emoji: IDNA 2008 knows none, yet registries sell them and browsers open them."""


class InvalidDomain(ValueError):
    """A text that is no domain name; its message says why without repeating it."""


def to_ascii(domain: str) -> str:
    """Return the domain in lower case with A-labels. Raise InvalidDomain.

    An ASCII label is kept as it is, A-labels included: whether one is registered only DNS tells.
    """
    if len(domain) > MAX_DOMAIN_CHARS:
        raise InvalidDomain(f"more than {MAX_DOMAIN_CHARS} characters")
    encoded, problem = _encoded(domain)
    if problem:
        raise InvalidDomain(problem)
    return encoded


def to_unicode(domain: str) -> str:
    """Return what to_ascii returned with its A-labels decoded; a label that can't be decoded stays."""
    return ".".join(_decoded(label) for label in domain.split("."))


def is_same_domain(first: str, second: str) -> bool:
    """Return whether both are one domain name; False where one of them is none."""
    try:
        return to_ascii(first) == to_ascii(second)
    except InvalidDomain:
        return False


@functools.lru_cache(maxsize=MAX_CACHED_DOMAINS)
def _encoded(domain: str) -> tuple[str, str]:
    """Return the ASCII form and an empty text, or an empty text and the problem; the caller checked the length."""
    try:
        mapped = domain.lower() if domain.isascii() else _mapped(domain)
        encoded = ".".join(_label(label) for label in mapped.split("."))
    except InvalidDomain as error:
        return "", str(error)
    if len(encoded) > MAX_DOMAIN_CHARS:
        return "", f"more than {MAX_DOMAIN_CHARS} characters"
    return encoded, ""


def _mapped(domain: str) -> str:
    """Return the domain after UTS #46's mapping: lower case, NFC, full-width letters and dots made plain ones."""
    try:
        mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False)
    except (idna.IDNAError, ValueError, IndexError) as error:
        raise InvalidDomain(_reason(error)) from None
    if len(mapped) > MAX_DOMAIN_CHARS:  # one character may become up to 18
        raise InvalidDomain(f"more than {MAX_DOMAIN_CHARS} characters")
    return mapped


def _label(label: str) -> str:
    if not label:
        raise InvalidDomain("an empty label")
    if len(label) > MAX_LABEL_CHARS:
        raise InvalidDomain(f"a label of more than {MAX_LABEL_CHARS} characters")
    if label.isascii():
        if not _ASCII_LABEL.fullmatch(label):
            raise InvalidDomain("a label with characters that DNS does not have, or a hyphen at its end")
        return label
    if any(unicodedata.category(character) == _SYMBOL for character in label):
        return _with_symbols(label)
    try:
        return idna.alabel(label).decode("ascii")
    except (idna.IDNAError, ValueError, IndexError) as error:
        raise InvalidDomain(_reason(error)) from None


def _with_symbols(label: str) -> str:
    """Return an emoji label's A-label as browsers make it: what is no symbol must pass IDNA 2008 by itself."""
    letters = "".join(character for character in label if unicodedata.category(character) != _SYMBOL)
    if letters and not letters.isascii():
        _label(letters)
    if not re.fullmatch(r"[a-z0-9-]*", letters) and letters.isascii():
        raise InvalidDomain("a label with characters that DNS does not have")
    if label.startswith("-") or label.endswith("-") or label[2:4] == "--":
        raise InvalidDomain("a hyphen at a label's end")
    encoded = "xn--" + label.encode("punycode").decode("ascii")
    if len(encoded) > MAX_LABEL_CHARS:
        raise InvalidDomain(f"a label of more than {MAX_LABEL_CHARS} characters")
    return encoded


def _decoded(label: str) -> str:
    if not label.startswith("xn--") or len(label) > MAX_LABEL_CHARS:
        return label
    try:
        return label[4:].encode("ascii").decode("punycode") or label
    except (UnicodeError, ValueError, OverflowError):
        return label


def _reason(error: Exception) -> str:
    """Return the code point that is refused, if the library names one; never the domain itself."""
    found = re.search(r"U\+[0-9A-F]{4,6}", str(error)[:400])
    return f"{found[0]} is not allowed there" if found else "not a valid internationalized label"
