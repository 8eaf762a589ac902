"""The scopes of API keys and the routes that need them, from the declaration that the gateway obeys."""

from pipeline.admin import BRAND_SCOPES, SCOPE_MEANINGS, KeyScope
from pipeline.gateway.route_scopes import ROUTE_SCOPES
from tests.architecture.reference.markdown import table


def part() -> str:
    rows = [
        (f"`{scope}`", meaning, "yes" if scope in BRAND_SCOPES else "", _routes(scope))
        for scope, meaning in SCOPE_MEANINGS.items()
    ]
    return table(("scope", "a key with it may", "for one brand", "routes"), rows)


def _routes(scope: KeyScope) -> str:
    """Return the routes that need a scope; of the spellings of one path, the first."""
    shown: dict[tuple[str, str], str] = {}
    for (method, path), scopes in ROUTE_SCOPES.items():
        if scope in scopes:
            bare = path.replace(":path", "")
            shown.setdefault((method, bare.strip("/")), f"`{method} {bare}`")
    return ", ".join(shown.values()) or "none yet"
