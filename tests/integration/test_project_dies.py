"""The projector as a process: killed between rows and offset, after the commit, frozen, and told to stop."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.bootstrap import runtime
from pipeline.rebuild import rebuild
from pipeline.settings import Settings
from tests.support.changes import lives
from tests.support.projecting import caught_up, publish, rows, until


@contextlib.asynccontextmanager
async def projector(settings: Settings, **env: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`mailfold project` as production runs it; killed at the end if it still runs."""
    own = {
        "KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "MAILFOLD_SECRET": settings.secret.get_secret_value(),
        "MAILFOLD_TOPIC_PREFIX": settings.topic_prefix,
        "MAILFOLD_PARTITIONS": str(settings.partitions),
        "MAILFOLD_DATA_DIR": str(settings.data_dir),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pipeline", "project"), env={**os.environ, **own, **env}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("point", ["project.between-rows-and-offset", "project.after-commit"])
async def test_a_projector_that_dies_at_a_crash_point_leaves_nothing_torn(
    settings: Settings, tmp_path: Path, point: str
) -> None:
    log = lives(21, 60)
    once = tmp_path / "once"
    once.touch()
    async with runtime(settings) as rt:
        async with projector(settings, MAILFOLD_CRASH_AT=point, MAILFOLD_CRASH_ONCE=str(once)) as dying:
            await publish(rt, log.changes)
            assert await asyncio.wait_for(dying.wait(), 30) == 137
        async with projector(settings):
            await until(lambda: caught_up(rt), 40)
        compared = await rebuild(rt, lambda _done, _total: None, check=True)
        assert compared.differences == []
        held = "select count(*) from jobs.jobs where state not in ('pending', 'done', 'dead')"
        assert await rows(rt, held) == [(0,)]


async def test_a_projector_frozen_past_its_session_wakes_and_harms_nothing(settings: Settings) -> None:
    log = lives(22, 60)
    async with runtime(settings) as rt, projector(settings) as frozen:
        await publish(rt, log.changes[:60])
        await until(lambda: caught_up(rt), 40)
        frozen.send_signal(signal.SIGSTOP)
        async with projector(settings):
            await publish(rt, log.changes[60:])
            await until(lambda: caught_up(rt), 60)
            frozen.send_signal(signal.SIGCONT)
            await publish(rt, log.changes[-5:])
            await until(lambda: caught_up(rt), 60)
            compared = await rebuild(rt, lambda _done, _total: None, check=True)
            assert compared.differences == []


async def test_sigterm_ends_it_soon_and_without_complaint(settings: Settings) -> None:
    log = lives(23, 100)
    async with runtime(settings) as rt, projector(settings) as process:
        await publish(rt, log.changes)
        await until(lambda: caught_up(rt), 40)
        began = time.monotonic()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert time.monotonic() - began < 10
