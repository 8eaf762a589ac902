"""A role's own endpoints: what they answer while it works, waits, or is blocked."""

import asyncio
import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.runtime.observing import ops_server, role_health
from pipeline.runtime.observing.ops_server import observe_role, serve_ops
from pipeline.runtime.observing.role_health import RoleHealth
from pipeline.settings import Settings
from tests.support.seeing import until

HOST = "127.0.0.1"


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def asked(port: int, path: str) -> tuple[int, Any]:
    """Ask without blocking the event loop that has to answer; wait for the server to listen."""
    while True:
        with contextlib.suppress(OSError):  # nobody listens yet, or all threads are busy
            status, text = await asyncio.to_thread(get, port, path)
            return status, text if path == "/metrics" else json.loads(text)
        await asyncio.sleep(0.02)


@contextlib.contextmanager
def served(health: RoleHealth) -> Iterator[int]:
    port = find_free_port()
    with observe_role(health, Settings(ops_host=HOST, ops_port_emit=port)):
        yield port


async def test_role_is_alive_at_once_and_ready_after_its_start() -> None:
    health = RoleHealth("emit")
    with served(health) as port:
        assert await asked(port, "/healthz") == (200, {"status": "ok"})
        assert await asked(port, "/readyz") == (503, {"status": "unavailable", "problems": {"start": "not finished"}})
        health.finish_start()
        assert await asked(port, "/readyz") == (200, {"status": "ok", "problems": {}})
        status, text = await asked(port, "/metrics")
        assert status == 200
        assert "mailfold_ready 1.0" in text
        assert "process_resident_memory_bytes" in text
        assert (await asked(port, "/nothing"))[0] == 404


async def test_each_problem_is_named_and_the_metric_says_not_ready() -> None:
    async def catching_up() -> dict[str, str]:
        return {"project": "catching up"}

    health = RoleHealth("emit")
    health.finish_start()
    health.add_check(catching_up)
    with served(health) as port:
        assert await asked(port, "/readyz") == (
            503,
            {"status": "unavailable", "problems": {"project": "catching up"}},
        )
        assert "mailfold_ready 0.0" in (await asked(port, "/metrics"))[1]


async def test_failing_check_and_failing_gauges_are_told_and_metrics_stay() -> None:
    async def fail() -> Any:
        raise RuntimeError("no connection to db.example.com")

    health = RoleHealth("emit")
    health.finish_start()
    health.add_check(fail)
    health.add_gauges(fail)
    with served(health) as port:
        assert (await asked(port, "/readyz"))[1]["problems"] == {"check": "failed (RuntimeError)"}
        status, text = await asked(port, "/metrics")
        assert status == 200
        assert "mailfold_refresh_failures_total 1.0" in text
        assert "mailfold_ready 0.0" in text


async def test_blocked_event_loop_is_neither_alive_nor_ready_and_still_shows_metrics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(role_health, "ALIVE_MAX_STALL_S", 0.3)
    monkeypatch.setattr(ops_server, "LOOP_TIMEOUT_S", 0.3)
    health = RoleHealth("emit")
    health.finish_start()

    def ask_until_blocked(port: int) -> dict[str, tuple[int, str]]:
        while get(port, "/healthz")[0] == 200:
            pass
        return {path: get(port, path) for path in ("/healthz", "/readyz", "/metrics")}

    with served(health) as port, ThreadPoolExecutor(1) as threads:
        assert (await asked(port, "/healthz"))[0] == 200
        answers = threads.submit(ask_until_blocked, port).result(30)  # which blocks the loop until it has the answers
        assert {path: status for path, (status, _) in answers.items()} == {
            "/healthz": 503,
            "/readyz": 503,
            "/metrics": 200,
        }
        assert "event loop blocked" in answers["/healthz"][1]
        assert "event loop" in answers["/readyz"][1]
        assert "mailfold_refresh_failures_total 1.0" in answers["/metrics"][1]
        await until(lambda: not health.stalled_seconds())
        assert (await asked(port, "/healthz"))[0] == 200


async def test_port_that_is_taken_is_used_once_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_server, "BIND_RETRY_S", 0.02)
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        with serve_ops(RoleHealth("emit"), HOST, port):
            await asyncio.sleep(0.1)
            other.close()
            assert (await asked(port, "/healthz"))[0] == 200


async def test_nothing_is_served_without_a_host() -> None:
    port = find_free_port()
    with serve_ops(RoleHealth("emit"), "", port), pytest.raises(urllib.error.URLError):
        await asyncio.to_thread(get, port, "/healthz")


async def test_client_that_sends_nothing_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_server, "MAX_CONNECTIONS", 2)
    with served(RoleHealth("emit")) as port:
        assert (await asked(port, "/healthz"))[0] == 200, "the server listens"
        idle = [await asyncio.open_connection(HOST, port) for _ in range(3)]
        async with asyncio.timeout(9):
            assert await idle[0][0].read() == b"", "the oldest is ended"
        for _ in range(3):
            assert (await asked(port, "/healthz"))[0] == 200
        for _, writer in idle:
            writer.close()
