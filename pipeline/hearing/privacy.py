"""No address leaves for `delivery-events`: a provider's own words in, the same words without addresses out."""

import re
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.errors import Unrecognised

HIDDEN: Final = "[address]"
_PART: Final = r"[^\s<>\"'(),:;@\[\]]"
# Both begin where a run of their characters begins and nowhere within: a long text takes no quadratic time.
ADDRESS: Final = re.compile(rf"(?<!{_PART}){_PART}+@{_PART}+")
_ENCODED: Final = re.compile(r"(?<![\w.+~%-])(?:[\w.+~-]|%(?!40)[0-9a-fA-F]{2})+%40[\w.-]+")
_QUOTES: Final = re.compile(r"[\"\\\s,{}\[\]]")

Hide = Callable[[str], str]


def hide_all(text: str) -> str:
    """Without anything that looks like an address: servers repeat them in their answers, forwarding targets too."""
    shown = ADDRESS.sub(HIDDEN, text) if "@" in text else text
    return _ENCODED.sub(HIDDEN, shown) if "%40" in shown else shown


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
    return _told(event, _Cleaner(hide, hide_all, words, personal))


def native_strictly(event: bytes, hide: Hide, *, personal: frozenset[str], verbatim: frozenset[str]) -> msgspec.Raw:
    """As `native`, but without all that looks like an address, in fields that nobody has heard of yet, too.

    Only in those named in ``verbatim``, links and message ids, no more is hidden than ``hide`` knows.
    """
    return _told(event, _Cleaner(lambda text: hide_all(hide(text)), hide, verbatim, personal))


class _Cleaner(NamedTuple):
    hide: Hide
    special: Hide
    named: frozenset[str]
    """The fields that are cleaned by ``special``."""
    personal: frozenset[str]


def _told(event: bytes, cleaner: _Cleaner) -> msgspec.Raw:
    try:
        return msgspec.Raw(msgspec.json.encode(_cleaned(msgspec.json.decode(event), cleaner, cleaner.hide)))
    except RecursionError:
        raise Unrecognised("an event nested too deeply") from None


def _cleaned(value: Any, cleaner: _Cleaner, hide: Hide) -> Any:
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [_cleaned(one, cleaner, hide) for one in value]
    if isinstance(value, dict):
        return {
            hide(name): _cleaned(one, cleaner, cleaner.special if name in cleaner.named else hide)
            for name, one in value.items()
            if name not in cleaner.personal
        }
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise Unrecognised("a number beyond 64 bits")
    return value
