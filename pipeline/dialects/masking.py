"""Mask addresses in listings, for API keys without the scope `history:addresses`. Pure; the dialects call it.

The domain of a recipient stays, because much that goes wrong concerns a domain. In other texts, such as a server's
reply or a mail's body, everything that looks like an address is replaced as a whole.
"""

import re
from typing import Any, Final

from pipeline.webhooks.redaction import redact_all

MASKED_LOCAL_PART: Final = "***"
_DOMAIN: Final = re.compile(r"[\w.-]+")


def mask_address(address: str) -> str:
    """Return an address, or ``Name <address>``, without name and local part: ``***@example.com``."""
    _, at, rest = address.strip().rpartition("@")
    domain = _DOMAIN.match(rest)  # and nothing after it, such as a name behind the address
    return f"{MASKED_LOCAL_PART}@{domain[0]}" if at and domain else MASKED_LOCAL_PART


def mask_value(value: Any) -> Any:
    """Return a JSON value without anything that looks like an address, in names of members, too."""
    if isinstance(value, str):
        return redact_all(value)
    if isinstance(value, list):
        return [mask_value(item) for item in value]
    if isinstance(value, dict):
        return {redact_all(name): mask_value(item) for name, item in value.items()}
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
