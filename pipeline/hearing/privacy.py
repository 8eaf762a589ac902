"""No address leaves for `delivery-events`: a provider's own words in, the same words without addresses out."""

import re
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from pipeline.errors import Unrecognised

HIDDEN: Final = "[address]"
ADDRESS: Final = re.compile(r"[^\s<>\"'(),:;@\[\]]+@[^\s<>\"'(),:;@\[\]]+")
_QUOTES: Final = re.compile(r"[\"\\\s,{}\[\]]")

Hide = Callable[[str], str]


def hide_all(text: str) -> str:
    """Without anything that looks like an address: servers repeat them in their answers, forwarding targets too."""
    return ADDRESS.sub(HIDDEN, text) if "@" in text else text


def hider(addresses: Iterable[str]) -> Hide:
    """Hides these addresses wherever they stand, plain or percent-encoded; without one, all that looks like one.

    Only an address that can't reach beyond one JSON string is looked for literally.
    """
    known = [address for address in addresses if "@" in address and not _QUOTES.search(address)]
    if not known:
        return hide_all
    forms = {form for one in known for form in (one, urllib.parse.quote(one, safe=""), urllib.parse.quote(one))}
    pattern = re.compile("|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)), re.IGNORECASE)
    return lambda text: pattern.sub(HIDDEN, text)


def native(event: bytes, hide: Hide, *, personal: frozenset[str], words: frozenset[str] = frozenset()) -> msgspec.Raw:
    """A provider's event as JSON, without its personal fields at any depth and the addresses that ``hide`` knows.

    ``words`` are texts that mail servers wrote, which may hold any address. Raises Unrecognised.
    """
    return msgspec.Raw(msgspec.json.encode(_cleaned(msgspec.json.decode(event), hide, personal, words)))


def _cleaned(value: Any, hide: Hide, personal: frozenset[str], words: frozenset[str]) -> Any:
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [_cleaned(one, hide, personal, words) for one in value]
    if isinstance(value, dict):
        return {
            hide(name): _cleaned(one, hide_all if name in words else hide, personal, words)
            for name, one in value.items()
            if name not in personal
        }
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise Unrecognised("a number beyond 64 bits")
    return value
