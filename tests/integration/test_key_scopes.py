"""Every route × every scope × another tenant's objects: what a key may do, asked over real HTTP."""

from collections.abc import Awaitable, Callable

import msgspec
import psycopg
import pytest
from httpx import Response
from psycopg.types.json import Jsonb

from pipeline import admin
from pipeline.admin import KeyLimits, KeyScope
from pipeline.gateway.openapi import tracking
from pipeline.gateway.route_scopes import ROUTE_SCOPES, check_routes
from pipeline.settings import Settings
from tests.architecture.reference.gateway import openapi
from tests.support.changes import Log, acked, event, identified, request
from tests.support.dialects import SURFACES, extrahorizon, freshmail, is_problem
from tests.support.fasttrack import message
from tests.support.gateway import Gateway, gateway
from tests.support.projecting import gateway_and_projector
from tests.support.seeing import until
from tests.support.suppressed import publish
from topics.events import EventKind

Call = tuple[str, bytes]
"""The path with a value for each parameter, and a body that no route accepts."""
INVALID = b"{"
CALLS: dict[tuple[str, str], Call] = {
    route: (path.replace("{name}", "welcome").replace("{address:path}", "anna@example.com?brand=7"), INVALID)
    for route in ROUTE_SCOPES
    for path in [route[1]]
}
"""A call of each route. Where a key may do it, the answer is about the request, and never about the key."""
KEYED = {route: scopes for route, scopes in ROUTE_SCOPES.items() if scopes}
KEYLESS = sorted(ROUTE_SCOPES.keys() - KEYED.keys())
ERROR_SHAPES = {
    **dict.fromkeys(("/channels", "//channels"), SURFACES[0].is_error),
    "/v1": SURFACES[1].is_error,
    "/v3": SURFACES[2].is_error,
    "/mail": SURFACES[3].is_error,
    "/api": lambda body: body.keys() == {"type", "title", "status", "detail", "where"},
}


async def call(served: Gateway, route: tuple[str, str], key: str) -> Response:
    path, body = CALLS[route]
    headers = {"X-Api-Key": key} if key else {}
    return await served.http.request(
        route[0], f"{str(served.http.base_url).rstrip('/')}{path}", content=body, headers=headers
    )


async def scoped_key(served: Gateway, *scopes: KeyScope, tenant: str = "acme") -> str:
    return await admin.add_key(served.rt.pool, tenant, limits=KeyLimits(frozenset(scopes)))


def names_the_scopes(route: tuple[str, str], answer: Response, missing: list[KeyScope]) -> bool:
    """Return whether an error has the shape of the route's API and names what the key lacks."""
    shape = next((shape for prefix, shape in ERROR_SHAPES.items() if route[1].startswith(prefix)), is_problem)
    challenge = f'Bearer error="insufficient_scope", scope="{" ".join(missing)}"'
    return (
        shape(answer.json())
        and all(scope in answer.text for scope in missing)
        and answer.headers["WWW-Authenticate"] == challenge
    )


async def test_every_route_lets_exactly_the_keys_with_its_scopes_pass(settings: Settings) -> None:
    async with gateway(settings) as served:
        failures = []
        for scope in KeyScope:
            key = await scoped_key(served, scope)
            for route, needed in KEYED.items():
                answer = await call(served, route, key)
                missing = [each for each in needed if each is not scope]
                is_right = (
                    answer.status_code not in (401, 403, 500)
                    if not missing
                    else answer.status_code == 403 and names_the_scopes(route, answer, missing)
                )
                if not is_right:
                    failures.append((scope, route, answer.status_code, answer.text))
        assert failures == []


async def test_every_route_lets_a_key_with_all_its_scopes_and_an_unscoped_key_pass(settings: Settings) -> None:
    async with gateway(settings) as served:
        for route, needed in KEYED.items():
            for key in (await scoped_key(served, *needed), served.key):
                assert (await call(served, route, key)).status_code not in (401, 403, 500), route


async def test_every_route_refuses_a_missing_and_a_wrong_key(settings: Settings) -> None:
    async with gateway(settings) as served:
        wrong = await scoped_key(served, *KeyScope)
        await admin.revoke_key(served.rt.pool, admin.key_names(wrong)[1])
        for route in KEYED:
            for key in ("", "mf_wrong", wrong[:-1]):
                answer = await call(served, route, key)
                assert answer.status_code == 401, (route, answer.text)
        assert (await call(served, ("GET", "/templates"), wrong)).status_code == 401


async def test_routes_without_a_scope_ask_for_no_key(settings: Settings) -> None:
    async with gateway(settings) as served:
        answers = {route: (await call(served, route, "")).status_code for route in KEYLESS}
        assert [route for route, status in answers.items() if status in (401, 403)] == []


def test_declared_scopes_follow_from_method_and_path() -> None:
    """Say once more, and in another way, what the table says: a slip in one line of it must not go unnoticed."""
    for (method, path), scopes in KEYED.items():
        area = path.strip("/").partition("/")[0]
        reads = method == "GET" or path.endswith(("/lookup", "/render"))
        if area == "api":
            expected = "statistics:read" if path.startswith("/api/v1/statistics") else "history:read"
        elif area in ("channels", "v1", "v3", "mail"):
            expected = "history:read" if reads else "send"
        elif area == "inbound":
            expected = "inbound:write"
        else:
            kind = "suppressions" if area == "suppressions" else "templates"
            expected = f"{kind}:{'read' if reads else 'write'}"
        assert scopes[0] == expected, (method, path)
        is_export = path.endswith("/export") or path.startswith("/api/v1/exports")
        also = ("history:addresses",) if path == "/api/v1/emails/lookup" else ("exports",) if is_export else ()
        assert scopes[1:] == also
    open_areas = {path.strip("/").partition("/")[0] for _, path in KEYLESS}
    assert open_areas == {"mail", "auth", "u", "webhooks", "healthz", "readyz", "metrics", "docs", "openapi.json"}
    assert [path for _, path in KEYLESS if path.startswith("/mail")] == [
        *("/mail/v1/health", "/mail/v1/{tracking_hash}/open", "/mail/v1/{tracking_hash}/open")
    ]


def test_route_that_is_not_declared_stops_the_application() -> None:
    with pytest.raises(RuntimeError, match="routes without an entry in ROUTE_SCOPES"):
        check_routes([])


def test_openapi_names_the_scopes_of_each_operation() -> None:
    operations = {
        (method.upper(), path): operation
        for path, methods in openapi()["paths"].items()
        for method, operation in methods.items()
        if path not in tracking.PATHS
    }
    for (method, path), scopes in ROUTE_SCOPES.items():
        operation = operations.get((method, path.replace(":path", "")))
        if operation is None:
            continue
        assert [next(iter(each.values())) for each in operation.get("security", ())] == (
            [list(scopes)] * 2 if scopes else []
        )
        assert ("403" in operation["responses"]) >= bool(scopes)


# ------------------------------------------------------------------ another tenant's objects
WELCOME = {"texts": {"en": {"subject": "Welcome", "html": "<p>Secret of acme</p>"}}, "default": "en"}
ADDRESS = "anna@example.com"


async def test_key_with_every_scope_reaches_no_object_of_another_tenant(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        foreign = {"X-Api-Key": await scoped_key(served, *KeyScope, tenant="other")}
        own = {"X-Api-Key": served.key}
        template_id, address_hash = await _make_objects(served, own)

        async def ask(method: str, path: str, **body: object) -> Response:
            asked.add((method, path.partition("?")[0]))
            return await served.http.request(method, path, headers=foreign, **body)  # type: ignore[arg-type]  # httpx's own arguments

        asked: set[tuple[str, str]] = set()
        for name in ("welcome", template_id):
            assert (await ask("GET", f"/templates/{name}")).status_code == 404
            assert (await ask("POST", f"/templates/{name}/render", json={})).status_code == 404
        assert (await ask("GET", "/templates")).json() == []
        assert (await ask("GET", "/localizations")).status_code == 404
        assert (await ask("GET", "/suppressions")).json()["suppressions"] == []
        assert (await ask("GET", "/suppressions/export")).text.count("\r\n") == 1
        for name in (ADDRESS, address_hash):
            assert (await ask("GET", f"/suppressions/{name}")).json()["suppressed"] == []
            assert (await ask("POST", "/suppressions/lookup", json={"address": name})).json()["suppressed"] == []
            assert (await ask("DELETE", f"/suppressions/{name}?brand=7")).status_code == 404
        export_id = (await served.http.post("/api/v1/exports", json={}, headers=own)).json()["export_id"]
        await _read_history_as_another_tenant(ask, export_id)
        await _write_as_another_tenant(served, foreign)

        assert len((await served.http.get("/api/v1/emails", headers=own)).json()["emails"]) == 1
        assert (await served.http.get("/templates/welcome", headers=own)).json()["texts"] == WELCOME["texts"]
        assert len((await served.http.get("/suppressions", headers=own)).json()["suppressions"]) == 1
        assert len((await served.http.get("/v1/Email/", headers=own)).json()["Emails"]) == 1
        readers = {route for route, scopes in KEYED.items() if route[0] == "GET" and scopes}
        assert {path for _, path in readers} <= {"/v1/Email", "/mail/v1"} | {
            path.replace("welcome", "{name}")
            .replace(ADDRESS, "{address:path}")
            .replace(identified(1), "{email_id}")
            .replace(export_id, "{export_id}")
            for _, path in asked
        }


async def _make_objects(served: Gateway, own: dict[str, str]) -> tuple[str, str]:
    """Make one object of each kind for `acme`; return a template's id and the hash of the suppressed address."""
    pushed = await served.http.put("/templates/welcome", json=WELCOME, headers=own)
    texts = {"languages": {"en": {"hello": "Hello"}}}
    assert (await served.http.put("/localizations", json=texts, headers=own)).status_code == 200
    suppressed = await served.http.post("/suppressions", json={"address": ADDRESS, "brand": "7"}, headers=own)
    assert suppressed.status_code in (200, 201), suppressed.text
    now = served.rt.clock()
    send_request = msgspec.structs.replace(request(1, now), recipient=ADDRESS, brand="7")
    await publish(served, Log().fold(send_request).fold(acked(1, now), event(1, EventKind.DELIVERED, now)))
    async with served.rt.pool.connection() as connection:
        await _insert_mail(connection)

    async def is_listed() -> bool:
        return bool((await served.http.get("/v1/Email/", headers=own)).json()["Emails"])

    await until(is_listed)
    assert len((await served.http.get("/mail/v1/", headers=own)).json()["data"]) == 1
    return pushed.json()["id"], suppressed.json()["address_hash"]


async def _read_history_as_another_tenant(ask: Callable[..., Awaitable[Response]], export_id: str) -> None:
    assert (await ask("GET", "/v1/Email/")).json()["Emails"] == []
    assert (await ask("GET", f"/v1/Email/?Email={ADDRESS}")).json()["Emails"] == []
    for path in ("/mail/v1/", "/mail/v1/?eq(id,mail-of-acme)", "/mail/v1/queued"):
        assert (await ask("GET", path)).json()["data"] == []
    for path in ("", "/timeline", "/versions"):
        assert (await ask("GET", f"/api/v1/emails/{identified(1)}{path}")).status_code == 404
    for path in ("", "/download"):
        assert (await ask("GET", f"/api/v1/exports/{export_id}{path}")).status_code == 404
    assert (await ask("GET", "/api/v1/emails")).json()["emails"] == []
    assert (await ask("POST", "/api/v1/emails/lookup", json={"recipient": ADDRESS})).json()["emails"] == []
    assert (await ask("GET", "/api/v1/changes")).json()["changes"] == []
    assert (await ask("GET", "/api/v1/statistics")).json()["totals"]["accepted"]["value"] == 0
    assert (await ask("GET", "/api/v1/statistics/definitions")).status_code == 200


async def _insert_mail(connection: psycopg.AsyncConnection[object]) -> None:
    mail = {"id": "mail-of-acme", "subject": "Hello", "recipients": {"to": [ADDRESS]}, "creation_timestamp": 1}
    await connection.execute(
        "insert into projections.mails (mail_id, tenant, created_at, views, updated_at, mail)"
        " values (%s, %s, 1, 0, 1, %s)",
        ("mail-of-acme", "acme", Jsonb(mail)),
    )


async def _write_as_another_tenant(served: Gateway, foreign: dict[str, str]) -> None:
    """Write what has the names of the objects of `acme`."""
    other = {"texts": {"en": {"subject": "Other", "html": "<p>Other</p>"}}, "default": "en"}
    assert (await served.http.put("/templates/welcome", json=other, headers=foreign)).status_code == 200
    body = {"address": "ben@example.com", "brand": "7"}
    assert (await served.http.post("/suppressions", json=body, headers=foreign)).status_code in (200, 201)
    for path, sent in (
        ("/channels/email/batch", [message()]),
        ("/v3/messaging/emails", freshmail()),
        ("/mail/v1/", extrahorizon()),
    ):
        assert (await served.http.post(path, json=sent, headers=foreign)).status_code in (200, 201)
