"""The worker removes quiet states: its table and the changelog shrink, and the history stays the same."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import rocksdict

from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from tests.support.changes import acked, conversion_result, event, identified, request, topic_of
from tests.support.projecting import caught_up, projecting
from tests.support.seeing import on, rows, until
from tests.support.worker import Worker, assert_changes, dump, feed, lives, supervised
from topics.changes import EmailChange, Fact, Tick
from topics.codec import decode
from topics.conversions import ConversionOutcome, ConversionWord
from topics.events import EventKind
from topics.join import merge
from topics.record import EmailId
from topics.registry import (
    DAY_MS,
    EMAIL_CHANGES,
    EMAIL_STATES,
)
from topics.states import EmailState

AT_ONCE = {"MAILFOLD_QUIET_DAYS": "0.00001"}
"""Most of a second."""
NEVER = {"MAILFOLD_QUIET_DAYS": "0"}

T0 = int(time.time() * 1000) - 100 * DAY_MS

OVER, OWED, WAITING = (identified(number) for number in (1, 2, 3))
STORY: list[Fact] = [
    request(1, T0),
    acked(1, T0 + 10),
    event(1, EventKind.DELIVERED, T0 + 20),
    conversion_result(1, ConversionWord.DELIVERED, ConversionOutcome.DELIVERED, T0 + 30),
]
UNFINISHED: list[Fact] = [
    request(2, T0),
    acked(2, T0 + 10),
    event(2, EventKind.DELIVERED, T0 + 20),
    request(3, T0),
]
COMPLAINT = event(1, EventKind.COMPLAINED, T0 + 40)


def entries(facts: Sequence[Fact]) -> list[LogEntry]:
    return [LogEntry(topic_of(fact), fact.email_id, fact) for fact in facts]


async def logged(settings: Settings) -> dict[str, list[bytes | None]]:
    """All that was ever said of each state."""
    found: dict[str, list[bytes | None]] = {}
    for _, key, value in await dump(settings, EMAIL_STATES):
        found.setdefault((key or b"").decode(), []).append(value)
    return found


async def kept(settings: Settings) -> dict[str, bytes]:
    """The states that a worker without a disk would recover."""
    return {key: values[-1] for key, values in (await logged(settings)).items() if values[-1] is not None}


def on_disk(worker: Worker) -> dict[str, bytes]:
    """What lies in the stores of a worker that has ended."""
    found: dict[str, bytes] = {}
    for path in worker.folder.glob("worker/**/*.db"):
        db: Any = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
        found |= {key.decode(): value for key, value in db.items() if not key.startswith(b"__")}
        db.close()
    return found


async def is_forgotten(settings: Settings, email_id: EmailId) -> bool:
    values = (await logged(settings)).get(email_id)
    return bool(values) and values[-1] is None  # type: ignore[index]


async def changes_of(settings: Settings, email_id: EmailId) -> list[EmailChange]:
    found: list[EmailChange | Tick] = await on(settings, EMAIL_CHANGES)
    return [change for change in found if isinstance(change, EmailChange) and change.email_id == email_id]


async def test_late_complaint_joins_the_history_of_an_expired_state(settings: Settings, tmp_path: Path) -> None:
    async with projecting(settings) as rt:
        with Worker(settings, tmp_path / "one", **AT_ONCE) as worker:
            await feed(settings, entries([*STORY, *UNFINISHED]))
            await until(lambda: is_forgotten(settings, OVER), 60)
            await feed(settings, entries([COMPLAINT]))
            await until(lambda: told_of(settings, OVER, "complained"), 60)
            await until(lambda: is_forgotten(settings, OVER), 60)
            assert worker.terminate() == 0
        last = (await changes_of(settings, OVER))[-1].state
        assert last.request is None
        assert last.complained is not None, "the worker began anew"
        await until(lambda: caught_up(rt), 60)
        assert await rows(
            rt, "select status, recipient, brand from projections.history where status = 'complained'"
        ) == [("complained", "player1@example.com", "2")]
        told_facts = await rows(
            rt, f"select kind from projections.timeline where email_id = '{OVER}' order by recorded_at, kind"
        )
        assert told_facts == [("accepted",), ("acked",), ("delivered",), ("conversion",), ("complained",)]
        jobs = await rows(rt, f"select name, seq, state from jobs.jobs where stream = '{OVER}' order by seq")
        assert jobs == [("delivered", 1, "done"), ("spam", 2, "pending")], "each word once"
        reasons = await rows(rt, f"select reason from projections.evidence where email_id = '{OVER}'")
        assert reasons == [("complaint",)]
    left = {OWED, WAITING}
    assert set(await kept(settings)) == left, "a debt, and an email that waits for dispatch"
    assert on_disk(worker) == await kept(settings)


async def told_of(settings: Settings, email_id: EmailId, mark: str) -> bool:
    return any(getattr(change.state, mark) is not None for change in await changes_of(settings, email_id))


@pytest.mark.ci
async def test_lost_disk_is_recovered_without_expired_states(settings: Settings, tmp_path: Path) -> None:
    worker = Worker(settings, tmp_path / "one", **AT_ONCE)
    with worker:
        await feed(settings, entries([*STORY, *UNFINISHED]))
        await until(lambda: is_forgotten(settings, OVER), 60)
        worker.kill()
    shutil.rmtree(worker.folder)
    other = Worker(settings, tmp_path / "one", **NEVER)
    with other:
        # A fact of each: what was recovered is what it is folded on.
        news = [event(number, EventKind.OPENED, T0 + 50) for number in (1, 2, 3)]
        await feed(settings, entries(news))
        states = await assert_changes(settings)
        assert other.terminate() == 0
    assert on_disk(other) == await kept(settings)
    recovered: dict[str, EmailState] = {key: decode(EMAIL_STATES, value) for key, value in on_disk(other).items()}
    assert recovered.keys() == {OVER, OWED, WAITING}
    assert {recovered[key] == states[key] for key in (OWED, WAITING)} == {True}
    assert recovered[OVER].request is None
    assert recovered[OVER].opened == states[OVER].opened


@pytest.mark.ci
async def test_a_crash_between_the_tombstones_and_the_store_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    with Worker(settings, tmp_path / "one", **NEVER) as remembering:
        await feed(settings, entries([*STORY, *UNFINISHED]))
        await assert_changes(settings)
        assert remembering.terminate() == 0
    assert on_disk(remembering).keys() == {OVER, OWED, WAITING}
    armed = tmp_path / "armed"
    armed.touch()
    crashing = {"MAILFOLD_CRASH_AT": "fold.before-store", "MAILFOLD_CRASH_ONCE": str(armed)}
    worker = Worker(settings, tmp_path / "one", **AT_ONCE, **crashing)
    with worker:
        await until(lambda: has_ended(worker), 60)
        assert worker.process.returncode == 137, "in front of the store with its first tombstones"
        assert await is_forgotten(settings, OVER)
        assert on_disk(worker).keys() == {OVER, OWED, WAITING}
    again = Worker(settings, tmp_path / "one", **NEVER)
    with again:
        await feed(settings, entries([COMPLAINT]))
        states = await assert_changes(settings)
        assert again.terminate() == 0
    assert states[OVER].request is not None
    assert on_disk(again) == await kept(settings)
    assert decode(EMAIL_STATES, on_disk(again)[OVER]).request is None, "it began anew: the log had the tombstone"


async def has_ended(worker: Worker) -> bool:
    return worker.process.poll() is not None


@pytest.mark.parametrize("wiped", [False, True], ids=["warm disk", "wiped disk"])
async def test_expiry_during_crashes_and_rebalances_loses_no_change(
    wiped: bool, settings: Settings, tmp_path: Path
) -> None:
    """These facts are older than the log keeps any, so each state is forgotten as soon as it is seen, debts or not."""
    one, two = (Worker(settings, tmp_path / name, **AT_ONCE) for name in ("one", "two"))
    with one:
        await feed(settings, lives(150, seed=1), pieces=6)
        await until(lambda: something_is_forgotten(settings), 60)
        with two:
            async with supervised(two):
                await feed(settings, lives(150, seed=1)[::2] + lives(150, seed=2), pieces=8)
                one.kill()
                if wiped:
                    shutil.rmtree(one.folder)
                await feed(settings, lives(150, seed=3), pieces=8)
                one.start()
                async with supervised(one):
                    await feed(settings, lives(150, seed=3)[::4], pieces=4)
                    states = await assert_changes(settings)
    standing = await kept(settings)
    assert len(standing) < len(states)
    # Each is part of the truth; whether all of it, depends on when it was forgotten.
    parts = {key: decode(EMAIL_STATES, value) for key, value in standing.items()}
    assert {key for key, part in parts.items() if merge(states[key], part) != states[key]} == set()


async def something_is_forgotten(settings: Settings) -> bool:
    return any(None in values for values in (await logged(settings)).values())
