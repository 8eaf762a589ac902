"""Test what the watchdog of an event loop measures, counts and logs."""

import asyncio
import logging
import re
import sys
import threading
import time
from typing import Any, cast

import pytest

from pipeline.runtime.observing.watchdog import BEAT_INTERVAL_S, STALL_S, own_frames, watch_event_loop
from tests.support.seeing import until


def spin(seconds: float) -> None:
    """Keep the loop's thread busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


class Beats:
    def __init__(self) -> None:
        self.lags: list[float] = []
        self.stalls = 0

    def __call__(self, lag: float, stalled: bool) -> None:
        self.lags.append(lag)
        self.stalls += stalled


async def test_blocked_loop_is_counted_and_logged_with_the_code_that_ran(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runtime.observing.watchdog._OWN_SOURCE_DIRS", __file__)
    beats = Beats()
    with watch_event_loop("gateway") as watchdog:
        watchdog.listen(beats)
        await until(lambda: beats.lags)
        spin(4 * STALL_S)
        seen = len(beats.lags)
        await until(lambda: len(beats.lags) > seen)
    assert beats.stalls == 1
    assert max(beats.lags) > 2 * STALL_S
    [record] = [record for record in caplog.records if record.name == "mailfold.watchdog"]
    assert record.levelno == logging.WARNING
    event = cast("dict[str, Any]", record.msg)
    assert event["role"] == "gateway"
    assert event["seconds"] > 2 * STALL_S
    assert 0 < event["cpu_seconds"] <= event["seconds"] + 0.1
    assert event["samples"] >= 1
    assert re.match(r"tests/unit/runtime/observing/test_watchdog\.py:\d+ spin < \S+ test_blocked_loop", event["at"])


async def test_loop_that_is_never_blocked_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    beats = Beats()
    with watch_event_loop("gateway") as watchdog:
        watchdog.listen(beats)
        await until(lambda: len(beats.lags) > 3)
    assert len(caplog.records) == beats.stalls  # a busy machine may block any loop, and then it says so


async def test_long_stall_is_logged_while_it_lasts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runtime.observing.watchdog.REPORT_AFTER_S", 2 * STALL_S)
    with watch_event_loop("worker"):
        await asyncio.sleep(2 * BEAT_INTERVAL_S)
        spin(5 * STALL_S)
        assert any("still blocked" in record.getMessage() for record in caplog.records), "before the loop runs again"


async def test_stopped_watchdog_leaves_no_thread_and_no_timer() -> None:
    before = threading.active_count()
    with watch_event_loop("gateway") as watchdog:
        watchdog.listen(beats := Beats())
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    await asyncio.sleep(2 * BEAT_INTERVAL_S)
    assert beats.lags == []


def test_only_places_of_our_own_source_are_logged() -> None:
    def callback(_match: re.Match[str]) -> str:
        return own_frames(sys._getframe())

    secret = re.sub("jane@example.test", callback, "jane@example.test")
    assert "jane" not in secret
    # Where no frame is ours, the innermost one.
    assert secret.startswith("tests/unit/runtime/observing/test_watchdog.py:")


@pytest.mark.parametrize("late", [0.0, 0.19])
async def test_delay_below_the_limit_is_no_stall(late: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("pipeline.runtime.observing.watchdog.time.monotonic", lambda: now)
    with watch_event_loop("gateway") as watchdog:
        watchdog.listen(beats := Beats())
        now += late
        watchdog._beat()
        now += STALL_S + 0.01
        watchdog._beat()
    assert (len(beats.lags), beats.stalls) == (2, 1)
