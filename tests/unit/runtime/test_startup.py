"""A role that starts waits for its servers, says why once, and ends at once where waiting does not help."""

import asyncio

import pytest

from pipeline.errors import (
    ClientRefused,
    DatabaseUnavailable,
    LogUnavailable,
    MailfoldError,
    RoleStopped,
    SchemaMismatch,
)
from pipeline.runtime import startup
from pipeline.runtime.startup import wait_until_available
from tests.support.logs import captured_log_lines


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "RETRY_INTERVAL_S", 0.0)


class FailingServer:
    """A server that answers after these errors."""

    def __init__(self, *errors: MailfoldError) -> None:
        self.errors = list(errors)

    async def open(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "open"


async def test_each_reason_is_logged_once_and_so_is_the_end() -> None:
    server = FailingServer(*[LogUnavailable("no broker")] * 3, DatabaseUnavailable("no database"))
    with captured_log_lines() as lines:
        assert await wait_until_available("Kafka", server.open, asyncio.Event()) == "open"
    assert [(line["level"], line["event"], line.get("error")) for line in lines()] == [
        ("error", "Kafka unavailable, waiting", "no broker"),
        ("error", "Kafka unavailable, waiting", "no database"),
        ("warning", "Kafka available again", None),
    ]


@pytest.mark.parametrize("error", [ClientRefused("wrong password"), SchemaMismatch("run `mailfold migrate`")])
async def test_what_waiting_does_not_change_ends_the_role(error: MailfoldError) -> None:
    with pytest.raises(type(error), match=str(error)):
        await wait_until_available("Kafka", FailingServer(error).open, asyncio.Event())


@pytest.mark.parametrize("interval_s", [0.0, 3600.0])
async def test_stop_ends_the_wait(interval_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "RETRY_INTERVAL_S", interval_s)
    stop = asyncio.Event()

    async def fail() -> None:
        raise LogUnavailable("no broker")

    waiting = asyncio.create_task(wait_until_available("Kafka", fail, stop))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    stop.set()
    async with asyncio.timeout(10):
        with pytest.raises(RoleStopped):
            await waiting


async def test_stop_ends_an_attempt_that_hangs() -> None:
    stop = asyncio.Event()
    waiting = asyncio.create_task(wait_until_available("Kafka", lambda: asyncio.sleep(3600), stop))
    await asyncio.sleep(0)
    stop.set()
    async with asyncio.timeout(10):
        with pytest.raises(RoleStopped):
            await waiting
