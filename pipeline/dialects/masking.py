"""Mask addresses in listings, for API keys without the scope `history:addresses`. Pure; the dialects call it.

The domain of a recipient stays, because much that goes wrong concerns a domain. In other texts, such as a server's
reply or a mail's body, everything that looks like an address is replaced as a whole.
"""

import re
from typing import Any, Final

from pipeline.webhooks.redaction import REDACTED, redact_all

MASKED_LOCAL_PART: Final = "***"
_DOMAIN: Final = re.compile(r"[\w.-]+")
# The forms in which servers write addresses beside the usual one.
_QUOTED: Final = re.compile(r'"[^"\n]{1,100}"@[^\s<>"]{1,300}')
"""A local part in quotation marks (RFC 5321 §4.1.2)."""
_LITERAL: Final = re.compile(r"(?<![\w.+~=%-])[\w.+~=%-]{1,300}@\[[^\]\s]{1,100}\]")
"""An address literal for a domain (RFC 5321 §4.1.3)."""
_REWRITTEN: Final = re.compile(r"(?i)(?<![\w=+-])SRS[01][=+-][^\s<>\"]{1,300}")
"""A forwarder's return path (Sender Rewriting Scheme)."""
_SPELLED: Final = re.compile(r"(?i)(?<![\w.+-])[\w.+-]{1,100}\s?[(\[]at[)\]]\s?[\w.-]{1,200}")
_RUN: Final = re.compile(r"[\w.+~=%-]+")
_DOMAIN_NAME: Final = re.compile(r"(?:[\w-]{1,63}\.){1,10}[^\W\d_]{2,24}")


def mask_address(address: str) -> str:
    """Return an address, or ``Name <address>``, without name and local part: ``***@example.com``."""
    _, at, rest = address.strip().rpartition("@")
    domain = _DOMAIN.match(rest)  # and nothing after it, such as a name behind the address
    return f"{MASKED_LOCAL_PART}@{domain[0]}" if at and domain else MASKED_LOCAL_PART


def mask_text(text: str) -> str:
    """Return a text without anything that looks like an address, also within another one (VERP, SRS)."""
    masked = text
    for pattern in (_QUOTED, _LITERAL, _REWRITTEN, _SPELLED):
        masked = pattern.sub(REDACTED, masked)
    masked = redact_all(masked)
    return _RUN.sub(_masked_run, masked) if "=" in masked else masked


def _masked_run(match: re.Match[str]) -> str:
    """Return a word as it is, or masked if it is a local part and a domain with = between them, as VERP writes them."""
    parts = match[0].split("=")
    return REDACTED if len(parts) > 1 and any(_DOMAIN_NAME.fullmatch(part) for part in parts) else match[0]


def mask_value(value: Any) -> Any:
    """Return a JSON value without anything that looks like an address, in names of members, too."""
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, list):
        return [mask_value(item) for item in value]
    if isinstance(value, dict):
        return {mask_text(name): mask_value(item) for name, item in value.items()}
    return value


def mask_addresses(value: Any) -> Any:
    """Return a JSON value in which every text is an address, with all of them masked."""
    if isinstance(value, str):
        return mask_address(value)
    if isinstance(value, list):
        return [mask_addresses(item) for item in value]
    if isinstance(value, dict):
        return {name: mask_addresses(item) for name, item in value.items()}
    return value
