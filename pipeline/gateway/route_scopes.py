"""The scopes that an API key needs for each HTTP route: the one place where that is decided.

`auth` reads it for every request, the OpenAPI document and the reference are made from it, and the application refuses
to start with a route that is missing here.
"""

from collections.abc import Collection, Iterable
from typing import Final

from starlette.routing import BaseRoute

from pipeline.admin import KeyScope

NO_KEY: Final[tuple[KeyScope, ...]] = ()
"""The route needs no API key: it is public, or its request carries a signature or credential of its own."""
_SEND: Final = (KeyScope.SEND,)
_HISTORY: Final = (KeyScope.HISTORY_READ,)
_EXPORT: Final = (KeyScope.HISTORY_READ, KeyScope.EXPORTS)
_STATISTICS: Final = (KeyScope.STATISTICS_READ,)
_READ_SUPPRESSIONS: Final = (KeyScope.SUPPRESSIONS_READ,)
_WRITE_SUPPRESSIONS: Final = (KeyScope.SUPPRESSIONS_WRITE,)
_READ_TEMPLATES: Final = (KeyScope.TEMPLATES_READ,)
_WRITE_TEMPLATES: Final = (KeyScope.TEMPLATES_WRITE,)
_OPERATE: Final = (KeyScope.OPERATE,)

ROUTE_SCOPES: Final[dict[tuple[str, str], tuple[KeyScope, ...]]] = {
    ("POST", "/channels/email/batch"): _SEND,
    ("POST", "/channels/email/batch/"): _SEND,
    ("POST", "//channels/email/batch"): _SEND,
    ("POST", "/v1/Email/"): _SEND,
    ("POST", "/v1/Email"): _SEND,
    ("GET", "/v1/Email/"): _HISTORY,
    ("GET", "/v1/Email"): _HISTORY,
    ("GET", "/api/v1/emails"): _HISTORY,
    ("GET", "/api/v1/emails/{email_id}"): _HISTORY,
    ("GET", "/api/v1/emails/{email_id}/timeline"): _HISTORY,
    ("GET", "/api/v1/emails/{email_id}/versions"): _HISTORY,
    ("POST", "/api/v1/emails/lookup"): (KeyScope.HISTORY_READ, KeyScope.HISTORY_ADDRESSES),
    ("GET", "/api/v1/changes"): _HISTORY,
    ("POST", "/api/v1/exports"): _EXPORT,
    ("GET", "/api/v1/exports/{export_id}"): _EXPORT,
    ("GET", "/api/v1/exports/{export_id}/download"): _EXPORT,
    ("GET", "/mail/v1/health"): NO_KEY,
    ("POST", "/mail/v1/"): _SEND,
    ("POST", "/mail/v1"): _SEND,
    ("GET", "/mail/v1/"): _HISTORY,
    ("GET", "/mail/v1"): _HISTORY,
    ("GET", "/mail/v1/queued"): _HISTORY,
    ("GET", "/mail/v1/{tracking_hash}/open"): NO_KEY,  # signed
    ("HEAD", "/mail/v1/{tracking_hash}/open"): NO_KEY,
    ("POST", "/auth/v2/oauth2/tokens"): NO_KEY,  # the key is in the body; its scopes go with the tokens
    ("POST", "/v3/messaging/emails"): _SEND,
    ("POST", "/v3/messaging/emails/"): _SEND,
    ("GET", "/templates"): _READ_TEMPLATES,
    ("GET", "/templates/{name}"): _READ_TEMPLATES,
    ("PUT", "/templates/{name}"): _WRITE_TEMPLATES,
    ("POST", "/templates/{name}/render"): _READ_TEMPLATES,
    ("GET", "/localizations"): _READ_TEMPLATES,
    ("PUT", "/localizations"): _WRITE_TEMPLATES,
    ("GET", "/suppressions"): _READ_SUPPRESSIONS,
    ("GET", "/suppressions/export"): (KeyScope.SUPPRESSIONS_READ, KeyScope.EXPORTS),
    ("POST", "/suppressions/import"): _WRITE_SUPPRESSIONS,
    ("POST", "/suppressions/lookup"): _READ_SUPPRESSIONS,
    ("GET", "/suppressions/{address:path}"): _READ_SUPPRESSIONS,
    ("POST", "/suppressions"): _WRITE_SUPPRESSIONS,
    ("DELETE", "/suppressions/{address:path}"): _WRITE_SUPPRESSIONS,
    ("GET", "/u/{token}"): NO_KEY,  # signed
    ("HEAD", "/u/{token}"): NO_KEY,
    ("POST", "/u/{token}"): NO_KEY,
    ("GET", "/webhooks/{provider}"): NO_KEY,
    ("HEAD", "/webhooks/{provider}"): NO_KEY,
    ("POST", "/webhooks/{provider}"): NO_KEY,  # verified by the provider's own keys
    ("POST", "/inbound/mail"): (KeyScope.INBOUND_WRITE,),
    ("GET", "/api/v1/statistics"): _STATISTICS,
    ("GET", "/api/v1/statistics/definitions"): _STATISTICS,
    ("GET", "/healthz"): NO_KEY,
    ("GET", "/readyz"): NO_KEY,
    ("GET", "/metrics"): NO_KEY,  # MAILFOLD_METRICS_KEY
    ("GET", "/docs"): NO_KEY,
    ("GET", "/openapi.json"): NO_KEY,
    ("HEAD", "/openapi.json"): NO_KEY,
}
"""The scopes that each route needs, by method and path; a key needs all of them.

The pixel and the links (`/o`, `/c`, `/t`) are no routes of the application: they carry signed tokens and never a key.
"""


def scopes_of_operation(method: str, path: str) -> tuple[KeyScope, ...]:
    """Return the scopes of a route that the OpenAPI document names by its method, in lower case, and path."""
    return _SCOPES_BY_OPERATION[method.upper(), path]


_SCOPES_BY_OPERATION: Final = {
    # OpenAPI's paths have no converters.
    (method, path.replace(":path}", "}")): scopes
    for (method, path), scopes in ROUTE_SCOPES.items()
}


SESSION_ROUTES: Final[dict[tuple[str, str], tuple[KeyScope, ...]]] = {
    ("GET", "/console"): (),
    ("POST", "/console/sign-out"): (),
    ("POST", "/console/sign-out-everywhere"): (),
    ("GET", "/console/emails"): _HISTORY,
    ("POST", "/console/emails/search"): _HISTORY,
    ("GET", "/console/emails/{email_id}"): _HISTORY,
    ("GET", "/console/emails/{email_id}/message"): (KeyScope.HISTORY_READ, KeyScope.HISTORY_ADDRESSES),
    ("GET", "/console/emails/{email_id}/html"): (KeyScope.HISTORY_READ, KeyScope.HISTORY_ADDRESSES),
    ("GET", "/console/dead-letters"): _OPERATE,
    ("GET", "/console/dead-letters/show"): _OPERATE,
    ("POST", "/console/dead-letters/replay"): _OPERATE,
    ("GET", "/console/lanes"): _OPERATE,
    ("POST", "/console/lanes/pause"): _OPERATE,
    ("POST", "/console/lanes/resume"): _OPERATE,
    ("GET", "/console/suppressions"): _READ_SUPPRESSIONS,
    ("POST", "/console/suppressions/find"): _READ_SUPPRESSIONS,
    ("POST", "/console/suppressions/add"): (KeyScope.SUPPRESSIONS_READ, KeyScope.SUPPRESSIONS_WRITE),
    ("POST", "/console/suppressions/lift"): (KeyScope.SUPPRESSIONS_READ, KeyScope.SUPPRESSIONS_WRITE),
}
"""The scopes that each page and action of the console needs of its session's key; any key may open those without.

An action answers with a page of its section, and so needs the scopes of that, too.
"""

OPEN_CONSOLE_ROUTES: Final = frozenset(
    {
        ("GET", "/console/sign-in"),
        ("POST", "/console/sign-in"),
        ("GET", "/console/assets/{name}"),
        ("GET", "/console/{rest:path}"),
    }
)
"""The console's routes that need no session: signing in, the stylesheet, and the answer that there is no such page."""

CONSOLE_ROUTES: Final = SESSION_ROUTES.keys() | OPEN_CONSOLE_ROUTES


def check_routes(routes: Iterable[BaseRoute], console_routes: Collection[tuple[str, str]] = ()) -> None:
    """Raise RuntimeError unless these are exactly the routes of :data:`ROUTE_SCOPES`, and the console's."""
    served = {
        # A mounted application would have routes that nobody declares; it has no methods.
        (method, str(getattr(route, "path", route)))
        for route in routes
        for method in getattr(route, "methods", None) or ("ANY",)
    }
    if differing := served ^ (ROUTE_SCOPES.keys() | set(console_routes)):
        raise RuntimeError(f"routes without an entry in ROUTE_SCOPES, or entries without a route: {sorted(differing)}")
