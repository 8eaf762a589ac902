"""The scopes of API keys: what a key may do.

Each HTTP route needs some of them (`pipeline/gateway/route_scopes.py`).
"""

from enum import StrEnum
from typing import Final


class KeyScope(StrEnum):
    """One thing that an API key may do."""

    SEND = "send"
    HISTORY_READ = "history:read"
    HISTORY_ADDRESSES = "history:addresses"
    STATISTICS_READ = "statistics:read"
    EXPORTS = "exports"
    SUPPRESSIONS_READ = "suppressions:read"
    SUPPRESSIONS_WRITE = "suppressions:write"
    TEMPLATES_READ = "templates:read"
    TEMPLATES_WRITE = "templates:write"
    INBOUND_WRITE = "inbound:write"
    OPERATE = "operate"
    ADMIN = "admin"


SCOPE_MEANINGS: Final[dict[KeyScope, str]] = {
    KeyScope.SEND: "Submit messages, by every API.",
    KeyScope.HISTORY_READ: "List emails and their states. Recipients' addresses are masked, and no filter takes them.",
    KeyScope.HISTORY_ADDRESSES: "Together with another scope: see addresses in clear, and filter by them.",
    KeyScope.STATISTICS_READ: "Read counts of emails and events.",
    KeyScope.EXPORTS: "Together with another scope: download whole lists as files.",
    KeyScope.SUPPRESSIONS_READ: "List suppressions, and look an address up.",
    KeyScope.SUPPRESSIONS_WRITE: "Suppress addresses, one or many, and lift suppressions.",
    KeyScope.TEMPLATES_READ: "List, show and render templates and localizations.",
    KeyScope.TEMPLATES_WRITE: "Push templates and localizations, which changes what is sent.",
    KeyScope.INBOUND_WRITE: "Hand over received mail: bounces, complaints, unsubscribes.",
    KeyScope.OPERATE: "Replay, pause and resume.",
    KeyScope.ADMIN: "Change tenants, keys, providers, brands and destinations.",
}
"""What each scope allows, for the commands' help and the reference."""

BRAND_SCOPES: Final = frozenset(
    {
        *(KeyScope.SEND, KeyScope.HISTORY_READ, KeyScope.HISTORY_ADDRESSES, KeyScope.STATISTICS_READ),
        *(KeyScope.EXPORTS, KeyScope.SUPPRESSIONS_READ, KeyScope.SUPPRESSIONS_WRITE),
    }
)
"""Scopes that can be limited to one brand. The others concern all brands of a tenant."""
