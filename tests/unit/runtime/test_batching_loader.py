"""Test that a batch of lookups runs outside the context of the task that happened to start it."""

import asyncio
from collections.abc import Mapping

import pytest

from pipeline.errors import LookupCancelled
from pipeline.runtime.batching_loader import BatchLoader
from pipeline.runtime.fair_threads import CURRENT_CALLER
from pipeline.runtime.observing.logs import bind_log_fields, get_logger
from tests.support.logs import captured_log_lines

log = get_logger(__name__)


async def test_batch_does_not_log_the_fields_of_its_first_caller() -> None:
    callers: list[str] = []

    async def fetch(keys: set[str]) -> Mapping[str, str]:
        callers.append(CURRENT_CALLER.get())
        log.warning("fetched", keys=len(keys))
        return {key: key.upper() for key in keys}

    loader = BatchLoader(fetch)

    async def ask(key: str) -> str:
        bind_log_fields(email_id=key)
        CURRENT_CALLER.set(key)
        return await loader.get(key)

    with captured_log_lines() as lines:
        values = await asyncio.gather(*(asyncio.create_task(ask(key)) for key in ("a", "b")))
    [line] = lines()
    assert values == ["A", "B"]
    assert (line["keys"], callers) == (2, [""])
    assert "email_id" not in line


async def test_cancellation_within_a_fetch_fails_its_callers_and_no_later_ones() -> None:
    """As a library's client may raise it while it is closed; the callers would wait for ever."""
    calls: list[set[str]] = []

    async def fetch(keys: set[str]) -> dict[str, str]:
        calls.append(keys)
        if len(calls) == 1:
            raise asyncio.CancelledError
        return dict.fromkeys(keys, "found")

    loader = BatchLoader(fetch)
    async with asyncio.timeout(10):
        with pytest.raises(LookupCancelled):
            await loader.get("a")
        assert await loader.get("a") == "found"
