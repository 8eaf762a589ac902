"""Exports over real HTTP: the same file each time, resumable, by whichever gateway."""

import asyncio
import csv
import functools
import gzip
import hashlib
import io
import json
from typing import Any

import httpx
import pytest

from pipeline import admin
from pipeline.admin import KeyLimits, KeyScope
from pipeline.cli.export import write_export
from pipeline.errors import LeaseLost
from pipeline.exports import chunks, rows, runner
from pipeline.exports.request import ExportFormat, ExportKind, ExportRequest
from pipeline.exports.runner import ExportRunner
from pipeline.exports.store import ExportStore
from pipeline.gateway.history_reader import HistoryReader
from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.routes.exports import parse_range
from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.postgres.retention import delete_batch
from pipeline.runtime.secrets.signing import AddressHasher, canonical_address, hash_address
from pipeline.settings import Settings
from projections.sink import Sink
from tests.conftest import RING
from tests.support.changes import T0
from tests.support.gateway import Gateway, gateway
from tests.support.history_oracle import project_all, varied_log

SINK = Sink(functools.partial(hash_address, AddressHasher(RING)), normalize_address=canonical_address)
END = T0 + 1_000_000


async def project_some(served: Gateway, emails: int = 40) -> None:
    logs = [varied_log(7, number, emails) for number in range(2)]
    async with served.rt.pool.connection() as connection:
        await project_all(connection, SINK, logs, END)


async def ask(served: Gateway, key: str = "", **command: Any) -> httpx.Response:
    return await served.http.post("/api/v1/exports", json=command, headers={"X-Api-Key": key or served.key})


async def get(served: Gateway, path: str, key: str = "", **headers: str) -> httpx.Response:
    return await served.http.get(f"/api/v1/exports/{path}", headers={"X-Api-Key": key or served.key, **headers})


async def finished(served: Gateway, answer: httpx.Response) -> dict[str, Any]:
    """Return an export when it is made."""
    assert answer.status_code == 202, answer.text
    async with asyncio.timeout(60):
        while (export := (await get(served, answer.json()["export_id"])).json())["state"] in ("pending", "running"):
            await asyncio.sleep(0.05)
    assert isinstance(export, dict)
    return export


async def test_file_is_the_same_by_http_and_by_command_and_goes_on_after_an_interruption(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_EMAILS", 7)
    async with gateway(settings) as served:
        await project_some(served)
        for kind in ExportKind:
            for form in ExportFormat:
                export = await finished(served, await ask(served, kind=kind, format=form, as_of=END - 1))
                assert export["state"] == "done", export
                path = f"{export['export_id']}/download"
                whole = await get(served, path)
                assert hashlib.sha256(whole.content).hexdigest() == export["checksum"]
                assert len(whole.content) == export["bytes"] == int(whole.headers["content-length"])
                text = gzip.decompress(whole.content).decode()
                reader = csv.reader(io.StringIO(text, newline=""))
                lines = len(list(reader)) - 1 if form is ExportFormat.CSV else len(text.splitlines())
                assert lines == export["rows"]
                assert export["emails"] == 80
                for cut in (0, 1, len(whole.content) // 2, len(whole.content) - 1):
                    rest = await get(served, path, Range=f"bytes={cut}-", **{"If-Range": whole.headers["etag"]})
                    assert rest.status_code == 206
                    assert whole.content[:cut] + rest.content == whole.content
                request = ExportRequest(tenant="acme", as_of=END - 1, kind=kind, format=form, masks_addresses=False)
                by_command = io.BytesIO()
                await write_export(served.rt.pool, request, by_command)
                assert by_command.getvalue() == whole.content


async def test_filter_selects_what_the_listing_selects(settings: Settings) -> None:
    async with gateway(settings) as served:
        await project_some(served)
        asked: dict[str, Any] = {"status": ["bounced", "complained"], "activity_id": 1}
        export = await finished(served, await ask(served, format="ndjson", filter=asked))
        listed = await served.http.get(
            "/api/v1/emails",
            params={**asked, "direction": "asc", "limit": 500, "as_of": export["as_of"]},
            headers={"X-Api-Key": served.key},
        )
        file = await get(served, f"{export['export_id']}/download")
        emails = [json.loads(line) for line in gzip.decompress(file.content).splitlines()]
        assert emails
        assert emails == listed.json()["emails"]


async def test_another_gateway_continues_an_export(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway dies after three chunks; the next one continues behind them, and the file is the same."""
    monkeypatch.setattr(chunks, "CHUNK_EMAILS", 7)
    request = ExportRequest(tenant="acme", as_of=END - 1, masks_addresses=False)
    async with open_runtime(settings, role="gateway") as rt:
        logs = [varied_log(7, number, 40) for number in range(2)]
        async with rt.pool.connection() as connection:
            await project_all(connection, SINK, logs, END)
        whole = io.BytesIO()
        await write_export(rt.pool, request, whole)
        read, store, export_id = HistoryReader(rt.pool).read, ExportStore(rt.pool), rt.new_id()
        assert await store.add(export_id, request)
        claimed = await store.claim(rt.new_id())
        assert claimed is not None
        nth = 0
        async for chunk in chunks.export_chunks(read, request):
            await store.add_chunk(claimed, nth, chunk)
            nth += 1
            if nth == 3:
                break
        assert await store.claim(rt.new_id()) is None, "it is leased"
        await store.release(claimed)
        running = asyncio.create_task(ExportRunner(rt, read).run())
        async with asyncio.timeout(60):
            while (export := await store.find("acme", export_id)) is None or export.state != "done":
                await asyncio.sleep(0.05)
        rt.stop.set()
        await running
        assert b"".join([data async for data in store.read(export_id)]) == whole.getvalue()
        assert export.checksum == hashlib.sha256(whole.getvalue()).hexdigest()
        with pytest.raises(LeaseLost):
            await store.renew(claimed)


async def test_addresses_need_their_scope(settings: Settings) -> None:
    async with gateway(settings) as served:
        await project_some(served, 5)

        async def key(*scopes: KeyScope, brand: str = "") -> str:
            return await admin.add_key(served.rt.pool, "acme", limits=KeyLimits(scopes=frozenset(scopes), brand=brand))

        masked = await key(KeyScope.HISTORY_READ, KeyScope.EXPORTS)
        assert (await ask(served, await key(KeyScope.HISTORY_READ))).status_code == 403
        assert (await ask(served, masked, filter={"recipient": "a@example.com"})).status_code == 403
        export = await finished(served, await ask(served, masked))
        file = gzip.decompress((await get(served, f"{export['export_id']}/download", masked)).content)
        assert b"***@example.com" in file
        assert b"layer" not in file
        clear = await finished(served, await ask(served))
        assert b"layer" in gzip.decompress((await get(served, f"{clear['export_id']}/download")).content)
        assert (await get(served, clear["export_id"], masked)).status_code == 403
        branded = await key(KeyScope.HISTORY_READ, KeyScope.EXPORTS, brand="1")
        assert (await get(served, export["export_id"], branded)).status_code == 404
        own = await finished(served, await ask(served, branded, format="ndjson"))
        lines = gzip.decompress((await get(served, f"{own['export_id']}/download", branded)).content).splitlines()
        assert {json.loads(line)["brand"] for line in lines} == {"1"}


async def test_expired_and_unknown_files_say_so(settings: Settings) -> None:
    async with gateway(settings) as served:
        await project_some(served, 5)
        export = await finished(served, await ask(served))
        path = f"{export['export_id']}/download"
        assert (await get(served, f"{served.rt.new_id()}/download")).status_code == 404
        assert (await get(served, "nonsense")).status_code == 404
        async with served.rt.pool.connection() as connection:
            await connection.execute("update exports.jobs set expires_at = now() - interval '1 day'")
        assert await delete_batch(served.rt.pool, runner.EXPIRING[0]) == 1
        answer = await get(served, path)
        assert answer.status_code == 410
        assert "ask for the same export again" in answer.json()["detail"]
        assert (await get(served, export["export_id"])).json()["state"] == "expired"


async def test_export_that_fails_says_so_and_the_next_one_is_made(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(settings) as served:
        await project_some(served, 5)
        with monkeypatch.context() as broken:
            broken.setattr(rows, "gzip_member", None)
            export = await finished(served, await ask(served))
        assert (export["state"], export["error"]) == ("failed", "an error of ours: TypeError")
        answer = await get(served, f"{export['export_id']}/download")
        assert answer.status_code == 409
        assert "it failed" in answer.json()["detail"]
        assert (await finished(served, await ask(served)))["state"] == "done"


async def test_invalid_commands_are_refused(settings: Settings) -> None:
    async with gateway(settings) as served:
        for command in (
            {"kind": "brands"},
            {"format": "xlsx"},
            {"filter": {"stat": "sent"}},
            {"filter": {"status": "gone"}},
            {"as_of": "soon"},
            {"colour": "red"},
        ):
            answer = await ask(served, **command)
            assert answer.status_code == 400, command
            assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("bytes=0-", (0, 9)), ("bytes=2-4", (2, 4)), ("bytes=2-99", (2, 9)), ("bytes=-3", (7, 9)), ("bytes=-99", (0, 9))],
)
def test_ranges(text: str, expected: tuple[int, int]) -> None:
    assert parse_range(text, 10) == expected


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=5-4", "bytes=-0"])
def test_ranges_beyond_the_file(text: str) -> None:
    with pytest.raises(HttpProblem) as problem:
        parse_range(text, 10)
    assert problem.value.status == 416
