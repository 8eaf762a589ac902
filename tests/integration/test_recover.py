"""A log that lost what was read from it: every surface says so, and `mailfold recover` loses and repeats nothing."""

import asyncio
import json
import secrets
from pathlib import Path

import pytest

from pipeline.operations.recover.losses import find_losses
from pipeline.operations.recover.put_back import PutBack
from pipeline.operations.recover.run import RecoveryCase, diagnose, recover
from pipeline.operations.status import read_status
from pipeline.project import compacted_topics
from pipeline.project.partition import PartitionProjector
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.postgres import leader
from pipeline.runtime.sleep import sleep_unless
from pipeline.settings import Settings
from tests.support.changes import lives
from tests.support.command import mailfold_on
from tests.support.dispatching import FAST
from tests.support.installation import Outside, installed, outside, pause, set_up, settled, take
from tests.support.mirror import drop, mirror
from tests.support.projecting import caught_up, projecting, publish
from tests.support.seeing import rows, until
from tests.support.worker import facts_on, plain_fold
from topics.codec import decode, encode
from topics.registry import EMAIL_STATES, MESSAGE_CONTENTS, SUPPRESSIONS, TEMPLATES
from topics.suppressions import AddressLifted, AddressListed, SuppressionReason
from topics.templates import Template, TemplateSyntax

BEFORE, LOST, WAITING, ACCEPTED = 5, 4, 3, 3


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update=FAST)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause_shortly(self: PartitionProjector, _seconds: float) -> None:
        await sleep_unless(self.rt.stop, 0.2)

    monkeypatch.setattr(PartitionProjector, "_pause", pause_shortly)
    monkeypatch.setattr(compacted_topics, "_HALT_PAUSE_S", 0.2)
    monkeypatch.setattr(leader, "LOG_END_TIMEOUT_S", 0.5)
    monkeypatch.setattr(leader, "LOST_LOG_INTERVAL_S", 0.5)


async def live_before_and_after(settings: Settings, folder: Path, world: Outside) -> int:
    """Send emails, then more, and accept some that are not sent; return the time in between."""
    await set_up(settings, world)
    async with installed(settings, folder) as rt:
        await take(rt, "before", BEFORE)
        await settled(rt, world, BEFORE)
        await asyncio.sleep(0.1)
        cut_at = rt.clock()
        await asyncio.sleep(0.1)
        await take(rt, "lost", LOST)
        await settled(rt, world, BEFORE + LOST)
        await pause(rt)
        await take(rt, "waiting", WAITING)
        jobs = "select 1 from jobs.jobs where queue = 'dispatch' having count(*) = %s"
        await until(lambda: rows(rt, jobs, BEFORE + LOST + WAITING))
    async with open_runtime(settings, signals=False) as rt:
        await rows(rt, "delete from jobs.lanes returning 1")
    return cut_at


async def assert_told(settings: Settings, rt: Runtime) -> None:
    """Assert that readiness, doctor, status and `recover` say what happened, and what to do."""
    await until(lambda: is_told(rt), patience=30)
    problems = await rt.health.find_problems()
    assert "mailfold recover" in problems["dispatch"]
    assert "mailfold recover" in problems["project"]
    said = await mailfold_on(settings, "doctor", "--json")
    found = [row for row in json.loads(said.out)["findings"] if row["area"] == "log"]
    assert [row["verdict"] for row in found] == ["fail"]
    assert "the log lost something" in (await mailfold_on(settings, "status")).out
    said = await mailfold_on(settings, "recover")
    assert said.code == 1
    assert "nothing was changed; repeat it with --yes" in said.err
    assert "Kafka was restored to an older moment" in said.out


@pytest.mark.ci
async def test_log_that_was_restored_to_an_older_moment(quick: Settings, tmp_path: Path) -> None:
    older = quick.model_copy(update={"topic_prefix": f"t{secrets.token_hex(6)}-"})
    total = BEFORE + LOST + WAITING + ACCEPTED
    async with outside() as world:
        cut_at = await live_before_and_after(quick, tmp_path / "one", world)
        # The contents of mail that was not sent are not lost, so that it still can be.
        await mirror(quick, older, until_ms=cut_at, whole=(MESSAGE_CONTENTS,))
        try:
            async with installed(older, tmp_path / "one") as rt:
                await take(rt, "accepted", ACCEPTED)
                await assert_told(older, rt)
                assert len(world.mails()) == BEFORE + LOST, "nothing is sent before it is clear"
                said = await mailfold_on(older, "recover", "--yes")
                assert said.code == 0, said.err
                await settled(rt, world, total)
                await until(lambda: is_ready(rt))
                assert await find_losses(older, rt.pool) == []
                history = await rows(rt, "select email_id::text, state from projections.history")
            world.assert_nothing_twice()
            assert len(world.mails()) == total
            states = {email_id: decode(EMAIL_STATES, state) for email_id, state in history}
            assert states == plain_fold(await facts_on(older)), "the log has all facts again"
            said = await mailfold_on(older, "recover")
            assert (said.code, "nothing to recover" in said.out) == (0, True)
        finally:
            await drop(older)


async def is_ready(rt: Runtime) -> bool:
    return not await rt.health.find_problems()


async def is_told(rt: Runtime) -> bool:
    """Return whether status and the readiness of both readers say that the log lost something."""
    snapshot = await read_status(rt)
    problems = await rt.health.find_problems()
    return bool(snapshot.halted and snapshot.lost and "dispatch" in problems)


async def test_log_that_has_grown_again_is_told_from_the_one_that_was_read(settings: Settings) -> None:
    """Its end says nothing any more; the record that was read last does."""
    async with projecting(settings) as rt:
        await publish(rt, lives(4, 60).changes)
        await until(lambda: caught_up(rt))
        assert await find_losses(settings, rt.pool) == []
    async with open_runtime(settings, signals=False) as rt:
        other = "update projections.next_offsets set last_digest = '\\x00' where partition = 1 returning last_time"
        [(last_time,)] = await rows(rt, other)
        [loss] = await find_losses(settings, rt.pool)
        assert (loss.reader, loss.partition, loss.is_shorter, loss.last_time) == ("project", 1, False, last_time)
        assert "has other records there" in str(loss)
    async with projecting(settings) as rt:
        await until(lambda: is_told_by_project(rt))
        before = await rows(rt, "select email_id, state from projections.history order by 1")
        diagnosis = await diagnose(rt)
        assert diagnosis.case is RecoveryCase.OTHER_LOG
        assert (await recover(rt)).moved == 3, "the partition and both compacted topics"
        await until(lambda: is_ready(rt))
        await until(lambda: caught_up(rt))
        assert await rows(rt, "select email_id, state from projections.history order by 1") == before
        assert await find_losses(settings, rt.pool) == []


async def test_compacted_topics_that_have_grown_again_lose_no_decision_and_no_template(settings: Settings) -> None:
    """Their ends are where they were, and a partition of another topic shows that the log was cut."""
    async with projecting(settings) as rt:
        await publish(rt, lives(4, 60).changes)
        await until(lambda: caught_up(rt))
    async with open_runtime(settings, signals=False) as rt:
        await cut_compacted_topics(rt)
        await rows(rt, "update projections.next_offsets set last_digest = '\\x00' where partition = 1 returning 1")
    async with projecting(settings) as rt:
        await until(lambda: is_told_by_project(rt))
        recovery = await recover(rt)
        assert (recovery.put_back.decisions, recovery.put_back.templates, recovery.moved) == (1, 1, 3)

        async def are_read() -> bool:
            decisions = "select encode(address_hash, 'hex'), reason, at, nth from suppressions.decisions order by nth"
            found = await rows(rt, decisions)
            return found == [("aa", None, 20, 0), ("bb", "manual", 21, 1), ("cc", "manual", 16, 2)]

        await until(are_read)
        versions = "select version from templates.versions order by 1"
        await until(lambda: has_rows(rt, versions, [(1,), (2,)]))
        await until(lambda: is_ready(rt))
        put_back = (await recover(rt)).put_back
        assert (put_back.decisions, put_back.templates) == (0, 0)


async def cut_compacted_topics(rt: Runtime) -> None:
    """Make the log and Postgres as after a loss: at the same places they have different records."""
    await append_all(rt.log, [LogEntry(SUPPRESSIONS, each.key, each) for each in (lifted("aa", 20), listed("bb", 21))])
    await append_all(rt.log, [LogEntry(TEMPLATES, each.key, each) for each in [template(1)]])
    # What was read at these places of the log that is lost.
    await rows(
        rt,
        "insert into suppressions.decisions values"
        " ('acme', '*', '\\xaa', 'manual', '', 'cli me', 15, 0),"
        " ('acme', '*', '\\xcc', 'manual', 'why', 'cli me', 16, 1) returning 1",
    )
    await rows(rt, "update suppressions.next_offsets set next_offset = 2 returning 1")
    other = template(2)
    await rows(
        rt,
        "insert into templates.versions (template_id, version, tenant, name, hash, recorded_at, template)"
        " values (%s, 2, 'acme', 'hello', %s, 5, %s) returning 1",
        *(other.template_id, other.hash, encode(TEMPLATES, other)),
    )
    await rows(rt, "update templates.next_offsets set next_offset = 1 returning 1")


async def has_rows(rt: Runtime, query: str, expected: list[tuple[int]]) -> bool:
    return await rows(rt, query) == expected


async def is_told_by_project(rt: Runtime) -> bool:
    return "has another record at offset" in (await rt.health.find_problems()).get("partition 1", "")


def lifted(address_hash: str, at: int) -> AddressLifted:
    return AddressLifted(tenant="acme", brand="*", address_hash=address_hash, by="cli me", at=at)


def listed(address_hash: str, at: int) -> AddressListed:
    return AddressListed(
        tenant="acme", brand="*", address_hash=address_hash, by="cli me", at=at, reason=SuppressionReason.MANUAL
    )


def template(version: int) -> Template:
    return Template(
        template_id="8c5d7f8e-0d9f-4e0c-9d64-b6f2c1f5a0c1",
        version=version,
        tenant="acme",
        name="hello",
        hash=f"hash {version}",
        syntax=TemplateSyntax.TWIG,
        texts={},
        default="en",
        recorded_at=5,
    )


async def test_decisions_that_only_a_backup_has_are_put_on_the_log(settings: Settings) -> None:
    async with projecting(settings) as rt:
        await rows(
            rt,
            "insert into suppressions.decisions values"
            " (%s, '7', '\\x01', 'manual', 'why', 'cli me', 5, -7),"
            " (%s, '*', '\\x01', null, '', 'cli me', 6, -6) returning 1",
            *("acme", "acme"),
        )
        await rows(rt, "insert into admin.tenants (tenant) values (%s) returning 1", "acme")
        assert (await diagnose(rt)).case is RecoveryCase.UNLOGGED
        assert (await recover(rt)).put_back == PutBack(decisions=2)

        async def are_read() -> bool:
            places = "select brand, nth from suppressions.decisions order by nth"
            return await rows(rt, places) == [("7", 0), ("*", 1)]

        await until(are_read)
        assert (await diagnose(rt)).case is RecoveryCase.NOTHING


async def test_new_database_is_told_to_be_one(settings: Settings) -> None:
    async with open_runtime(settings, signals=False) as rt:
        assert (await diagnose(rt)).case is RecoveryCase.NO_TENANTS
    said = await mailfold_on(settings, "recover")
    assert (said.code, "`mailfold restore`" in said.out) == (0, True)
