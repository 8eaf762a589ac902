"""The projector as a process: killed between rows and offset, killed after the commit, frozen, and stopped."""

import signal
import time
from pathlib import Path

import pytest

from pipeline.operations.rebuild import rebuild
from pipeline.runtime.bootstrap import open_runtime
from pipeline.settings import Settings
from tests.support.changes import lives
from tests.support.command import armed, ends, process
from tests.support.projecting import caught_up, publish
from tests.support.seeing import rows, until


@pytest.mark.parametrize("point", ["project.between-rows-and-offset", "project.after-commit"])
async def test_projector_crash_leaves_no_partial_write(settings: Settings, tmp_path: Path, point: str) -> None:
    log = lives(21, 60)
    async with open_runtime(settings) as rt:
        async with process(settings, "project", **armed(point, tmp_path)) as dying:
            await publish(rt, log.changes)
            assert await ends(dying) == 137
        async with process(settings, "project"):
            await until(lambda: caught_up(rt), 40)
        compared = await rebuild(rt, lambda _done, _total: None, check=True)
        assert compared.differences == []
        held = "select count(*) from jobs.jobs where state not in ('pending', 'done', 'dead')"
        assert await rows(rt, held) == [(0,)]


async def test_projector_frozen_past_its_session_writes_nothing_wrong(settings: Settings) -> None:
    log = lives(22, 60)
    async with open_runtime(settings) as rt, process(settings, "project") as frozen:
        await publish(rt, log.changes[:60])
        await until(lambda: caught_up(rt), 40)
        frozen.send_signal(signal.SIGSTOP)
        async with process(settings, "project"):
            await publish(rt, log.changes[60:])
            await until(lambda: caught_up(rt), 60)
            frozen.send_signal(signal.SIGCONT)
            await publish(rt, log.changes[-5:])
            await until(lambda: caught_up(rt), 60)
            compared = await rebuild(rt, lambda _done, _total: None, check=True)
            assert compared.differences == []


async def test_sigterm_ends_the_projector_soon_without_errors(settings: Settings) -> None:
    log = lives(23, 100)
    async with open_runtime(settings) as rt, process(settings, "project") as projector:
        await publish(rt, log.changes)
        await until(lambda: caught_up(rt), 40)
        began = time.monotonic()
        projector.terminate()
        assert await ends(projector, 10) == 0
        assert time.monotonic() - began < 10
