"""Remove email addresses and personal fields from providers' events, so that none reaches `delivery-events`.

The provider adapters call it.
"""

import functools
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.errors import Unrecognised

REDACTED: Final = "[address]"
MAX_KNOWN_ADDRESSES: Final = 60
"""No provider's event has more recipients; in one with more, everything that looks like an address is redacted."""
MAX_ADDRESS_CHARS: Final = 320
_TOO_DEEP: Final = "an event nested too deeply"
_PART: Final = r"[^\s<>\"'(),:;@\[\]]"
# The lookbehind lets a match begin only at the start of a run of its characters, so that a long text does not take
# quadratic time. The same holds for the patterns below.
ADDRESS_PATTERN: Final = re.compile(rf"(?<!{_PART}){_PART}+@{_PART}+")
_ENCODED: Final = re.compile(r"(?<![\w.+~%-])(?:[\w.+~-]|%(?!40)[0-9a-fA-F]{2})+%40[\w.-]+")
# An @ in a link has many uses; followed by a domain that ends in letters it belongs to an address.
_IN_LINKS: Final = re.compile(
    r"(?<![\w.+~%-])(?:[\w.+~-]|%(?!40)[0-9a-fA-F]{2})+(?:@|%40)[\w-]+(?:\.[\w-]+)*\.[a-zA-Z]{2,}"
)
_QUOTES: Final = re.compile(r"[\"\\\s,{}\[\]]")

_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])

Redact = Callable[[str], str]


def redact_all(text: str) -> str:
    """Return the text without anything that looks like an address; servers repeat addresses in their replies."""
    redacted = ADDRESS_PATTERN.sub(REDACTED, text) if "@" in text else text
    return _ENCODED.sub(REDACTED, redacted) if "%40" in redacted else redacted


def redact_links(text: str) -> str:
    """Return a link without what is certainly an address, plain or percent-encoded; the rest stays unchanged."""
    return _IN_LINKS.sub(REDACTED, text) if "@" in text or "%40" in text else text


class Redactor:
    """A function that redacts given addresses, plain or percent-encoded, and what is certainly an address."""

    __slots__ = ("redact_known",)

    def __init__(self, redact_known: Redact) -> None:
        self.redact_known = redact_known
        """Redacts the given addresses only; for message ids, which look like addresses."""

    def __call__(self, text: str) -> str:
        """Return the redacted text."""
        # Most texts contain neither and are returned at once, at a tenth of the cost.
        return redact_links(self.redact_known(text)) if "@" in text or "%40" in text else text


def redactor(addresses: Iterable[str]) -> Redactor:
    """Return a Redactor of these addresses.

    Addresses with characters that end a JSON string or an item of a list are ignored: they could match across fields.
    With too many or too long addresses, the Redactor redacts everything that looks like an address.
    """
    known = [address for address in addresses if "@" in address and not _QUOTES.search(address)]
    if not known:
        return Redactor(str)
    if len(known) > MAX_KNOWN_ADDRESSES or max(map(len, known)) > MAX_ADDRESS_CHARS:
        return Redactor(redact_all)
    folded = [address.casefold() for address in known]
    finder: list[_KnownAddresses] = []

    def redact_known(text: str) -> str:
        # Compiling the patterns costs more than everything else: do it only for a text that they will change.
        if "%40" not in text:
            if "@" not in text:
                return text
            folded_text = text.casefold()
            if not any(address in folded_text for address in folded):
                return text
        if not finder:
            finder.append(_KnownAddresses(known))
        return finder[0].redact(text)

    return Redactor(redact_known)


class _KnownAddresses:
    """Addresses that are found by their domain first and then by the local part before it, in one pass over a text."""

    __slots__ = ("_locals", "_pattern")

    def __init__(self, known: list[str]) -> None:
        spellings = {
            spelling
            for address in known
            for spelling in (address, urllib.parse.quote(address, safe=""), urllib.parse.quote(address))
        }
        parts = [_split(spelling) for spelling in spellings]
        domains = sorted({domain.casefold() for _, domain in parts}, key=len, reverse=True)
        # Per domain: length of the matching domain and local part, longest address first. A domain may begin with a
        # shorter one, and an address of either may be meant.
        self._locals = {
            domain: sorted(
                ((len(prefix), local.casefold()) for local, prefix in parts if domain.startswith(prefix.casefold())),
                key=lambda candidate: candidate[0] + len(candidate[1]),
                reverse=True,
            )
            for domain in domains
        }
        self._pattern = re.compile("|".join(map(re.escape, domains)), re.IGNORECASE)

    def redact(self, text: str) -> str:
        """Return the text with each of the addresses replaced."""
        pieces: list[str] = []
        done = 0
        for match in self._pattern.finditer(text):
            span = self._span(text, match, done)
            if span is not None:
                start, end = span
                pieces += text[done:start], REDACTED
                done = end
        return "".join((*pieces, text[done:]))

    def _span(self, text: str, match: re.Match[str], earliest: int) -> tuple[int, int] | None:
        """Return where the address with the matched domain begins and ends; None if its local part is not known.

        It must not begin before the index ``earliest``.
        """
        at = match.start()
        for length, local in self._locals.get(match[0].casefold(), ()):
            start = at - len(local)
            if start >= earliest and text[start:at].casefold() == local:
                return start, at + length
        return None


def _split(address: str) -> tuple[str, str]:
    """Return the local part and the rest from the last @ on, plain or encoded."""
    at = address.rfind("@") if "@" in address else address.rfind("%40")
    return address[:at], address[at:]


def redacted_native(
    event: bytes, redact: Redactor, *, personal: frozenset[str], verbatim: frozenset[str]
) -> msgspec.Raw:
    """Return a provider's event, a JSON object, without addresses. Raise Unrecognised if it is nested too deeply.

    ``redact`` redacts the addresses that the event names. Fields named in ``personal`` are removed at any depth. In
    those named in ``verbatim``, links and ids, only certain addresses are redacted: ids look like addresses.
    """
    try:
        fields = _FIELDS.decode(event)
    except RecursionError:
        raise Unrecognised(_TOO_DEEP) from None
    return redacted_fields(fields, redact, personal=personal, verbatim=verbatim)


def redacted_fields(
    fields: Mapping[str, msgspec.Raw], redact: Redactor, *, personal: frozenset[str], verbatim: frozenset[str]
) -> msgspec.Raw:
    """Return a decoded event as :func:`redacted_native` does."""

    def redact_strictly(text: str) -> str:
        return redact_all(redact(text)) if "@" in text or "%40" in text else text

    rules, quoted_names = _RedactionRules(redact, verbatim, personal), _quoted_names(personal)
    kept = {}
    for name, value in fields.items():
        if name not in personal:
            unchanged = _needs_no_redaction(bytes(value), quoted_names)
            kept_value = value if unchanged else _redacted_raw(value, rules, rules.redact_of(name, redact_strictly))
            kept[redact_strictly(name) if "@" in name or "%40" in name else name] = kept_value
    return msgspec.Raw(msgspec.json.encode(kept))


def _needs_no_redaction(value: bytes, quoted_names: tuple[bytes, ...]) -> bool:
    r"""Return whether a JSON value contains neither an address nor a personal field.

    A value with ``\u`` may contain both behind the escape. Such a value is decoded before it is redacted: in the raw
    text, the letter of an escape would count as the first character of an address.
    """
    if b"@" in value or b"%40" in value or b"\\u" in value:
        return False
    return value[:1] not in (b"{", b"[") or not any(name in value for name in quoted_names)


@functools.lru_cache(maxsize=64)
def _quoted_names(fields: frozenset[str]) -> tuple[bytes, ...]:
    return tuple(f'"{name}"'.encode() for name in fields)


class _RedactionRules(NamedTuple):
    """The rules by which the fields of one event are redacted or removed."""

    redactor: Redactor
    verbatim: frozenset[str]
    personal: frozenset[str]

    def redact_of(self, name: str, redact: Redact) -> Redact:
        """Return the function for the value of a field: ``redact``, unless the field is a link or an id."""
        if name not in self.verbatim:
            return redact
        return self.redactor.redact_known if name.lower().endswith("id") else self.redactor


def _redacted_raw(value: msgspec.Raw, rules: _RedactionRules, redact: Redact) -> msgspec.Raw:
    try:
        return msgspec.Raw(msgspec.json.encode(_redacted_value(msgspec.json.decode(value), rules, redact)))
    except RecursionError:
        raise Unrecognised(_TOO_DEEP) from None


def _redacted_value(value: Any, rules: _RedactionRules, redact: Redact) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted_value(item, rules, redact) for item in value]
    if isinstance(value, dict):
        return {
            redact(name): _redacted_value(item, rules, rules.redact_of(name, redact))
            for name, item in value.items()
            if name not in rules.personal
        }
    return value
