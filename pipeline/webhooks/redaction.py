"""No address leaves for `delivery-events`: a provider's own words in, the same words without addresses out."""

import functools
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.errors import Unrecognised

REDACTED: Final = "[address]"
MAX_KNOWN_ADDRESSES: Final = 60
"""No provider's event has more recipients; of one with more, all that looks like an address is hidden."""
MAX_ADDRESS_CHARS: Final = 320
_TOO_DEEP: Final = "an event nested too deeply"
_PART: Final = r"[^\s<>\"'(),:;@\[\]]"
# All begin where a run of their characters begins and nowhere within: a long text takes no quadratic time.
ADDRESS_PATTERN: Final = re.compile(rf"(?<!{_PART}){_PART}+@{_PART}+")
_ENCODED: Final = re.compile(r"(?<![\w.+~%-])(?:[\w.+~-]|%(?!40)[0-9a-fA-F]{2})+%40[\w.-]+")
# In a link an @ may be many things; with a domain that ends in letters behind it it is an address.
_IN_LINKS: Final = re.compile(
    r"(?<![\w.+~%-])(?:[\w.+~-]|%(?!40)[0-9a-fA-F]{2})+(?:@|%40)[\w-]+(?:\.[\w-]+)*\.[a-zA-Z]{2,}"
)
_QUOTES: Final = re.compile(r"[\"\\\s,{}\[\]]")

_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])

Redact = Callable[[str], str]


def redact_all(text: str) -> str:
    """Without anything that looks like an address: servers repeat them in their answers, forwarding targets too."""
    shown = ADDRESS_PATTERN.sub(REDACTED, text) if "@" in text else text
    return _ENCODED.sub(REDACTED, shown) if "%40" in shown else shown


def redact_links(text: str) -> str:
    """Without what is surely an address, plain or percent-encoded: links, of which the rest has to stay."""
    return _IN_LINKS.sub(REDACTED, text) if "@" in text or "%40" in text else text


class Redactor:
    """Hides some addresses wherever they stand, plain or percent-encoded, and what is surely one."""

    __slots__ = ("known",)

    def __init__(self, known: Redact) -> None:
        self.known = known
        """These addresses only; for message ids, which look like addresses."""

    def __call__(self, text: str) -> str:
        """For links, and for whatever else may hold an @."""
        # Without either there is nothing to look for: most texts are done here, at a tenth of the price.
        return redact_links(self.known(text)) if "@" in text or "%40" in text else text


def redactor(addresses: Iterable[str]) -> Redactor:
    """Of these addresses; only one that can't reach beyond one JSON string is looked for literally."""
    known = [address for address in addresses if "@" in address and not _QUOTES.search(address)]
    if not known:
        return Redactor(str)
    if len(known) > MAX_KNOWN_ADDRESSES or max(map(len, known)) > MAX_ADDRESS_CHARS:
        return Redactor(redact_all)
    folded = [address.casefold() for address in known]
    finder: list[_KnownAddresses] = []

    def hide(text: str) -> str:
        # To build the patterns costs more than all the rest: only for a text that they will change.
        if "%40" not in text:
            if "@" not in text:
                return text
            told = text.casefold()
            if not any(address in told for address in folded):
                return text
        if not finder:
            finder.append(_KnownAddresses(known))
        return finder[0].redact(text)

    return Redactor(hide)


class _KnownAddresses:
    """Finds addresses by what follows the @, and then looks before it: a text is read once, whatever is in it."""

    __slots__ = ("_ends", "_pattern")

    def __init__(self, known: list[str]) -> None:
        forms = {form for one in known for form in (one, urllib.parse.quote(one, safe=""), urllib.parse.quote(one))}
        split = [_split(form) for form in forms]
        tails = sorted({tail.casefold() for _, tail in split}, key=len, reverse=True)
        # Of a longer domain that begins with a shorter one, both may be meant.
        self._ends = {
            tail: sorted(
                ((len(end), local.casefold()) for local, end in split if tail.startswith(end.casefold())),
                key=lambda one: one[0] + len(one[1]),
                reverse=True,
            )
            for tail in tails
        }
        self._pattern = re.compile("|".join(map(re.escape, tails)), re.IGNORECASE)

    def redact(self, text: str) -> str:
        kept: list[str] = []
        done = 0
        for found in self._pattern.finditer(text):
            start, at = self._start(text, found, done), found.start()
            if start is not None:
                begin, length = start
                kept += text[done:begin], REDACTED
                done = at + length
        return "".join((*kept, text[done:]))

    def _start(self, text: str, found: re.Match[str], least: int) -> tuple[int, int] | None:
        at = found.start()
        for length, local in self._ends.get(found[0].casefold(), ()):
            begin = at - len(local)
            if begin >= least and text[begin:at].casefold() == local:
                return begin, length
        return None


def _split(form: str) -> tuple[str, str]:
    """Return an address in two parts, the second from its last @ on, plain or encoded."""
    at = form.rfind("@") if "@" in form else form.rfind("%40")
    return form[:at], form[at:]


def redacted_native(event: bytes, hide: Redactor, *, personal: frozenset[str], verbatim: frozenset[str]) -> msgspec.Raw:
    """A provider's event as JSON, without its personal fields at any depth and all that looks like an address.

    In the fields named in ``verbatim``, links and ids, no more is hidden than has to be: ids look like addresses.
    """
    try:
        fields = _FIELDS.decode(event)
    except RecursionError:
        raise Unrecognised(_TOO_DEEP) from None
    return redacted_fields(fields, hide, personal=personal, verbatim=verbatim)


def redacted_fields(
    fields: Mapping[str, msgspec.Raw], hide: Redactor, *, personal: frozenset[str], verbatim: frozenset[str]
) -> msgspec.Raw:
    """The same of an event that was taken apart already."""

    def strictly(text: str) -> str:
        return redact_all(hide(text)) if "@" in text or "%40" in text else text

    cleaner, names = _FieldRedactor(hide, verbatim, personal), _names(personal)
    kept = {}
    for name, value in fields.items():
        if name not in personal:
            plain = _is_plain(bytes(value), names)
            told = value if plain else _told(value, cleaner, cleaner.of(name, strictly))
            kept[strictly(name) if "@" in name or "%40" in name else name] = told
    return msgspec.Raw(msgspec.json.encode(kept))


def _is_plain(value: bytes, personal: tuple[bytes, ...]) -> bool:
    """Whether it stays as it came: nothing to hide is in it, nor behind an escape.

    Never cleaned as it is: behind a backslash an address begins a letter too early.
    """
    if b"@" in value or b"%40" in value or b"\\u" in value:
        return False
    return value[:1] not in (b"{", b"[") or not any(name in value for name in personal)


@functools.lru_cache(maxsize=64)
def _names(fields: frozenset[str]) -> tuple[bytes, ...]:
    return tuple(f'"{name}"'.encode() for name in fields)


class _FieldRedactor(NamedTuple):
    redactor: Redactor
    verbatim: frozenset[str]
    personal: frozenset[str]

    def of(self, name: str, hide: Redact) -> Redact:
        """How the value of a field is cleaned."""
        if name not in self.verbatim:
            return hide
        return self.redactor.known if name.lower().endswith("id") else self.redactor


def _told(value: msgspec.Raw, cleaner: _FieldRedactor, hide: Redact) -> msgspec.Raw:
    try:
        return msgspec.Raw(msgspec.json.encode(_cleaned(msgspec.json.decode(value), cleaner, hide)))
    except RecursionError:
        raise Unrecognised(_TOO_DEEP) from None


def _cleaned(value: Any, cleaner: _FieldRedactor, hide: Redact) -> Any:
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [_cleaned(one, cleaner, hide) for one in value]
    if isinstance(value, dict):
        return {
            hide(name): _cleaned(one, cleaner, cleaner.of(name, hide))
            for name, one in value.items()
            if name not in cleaner.personal
        }
    return value
