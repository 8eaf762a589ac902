"""`python -m tests.chaos.upgrade`: upgrade under load, go back, and upgrade again, and check that all guarantees hold.

Two processes of each role run the version before. One by one, they are replaced by this version's, readers first, then
by the version before's, writers first, and again by this version's. In between, both versions work side by side on the
same topics and tables.
"""

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from tests.chaos import source
from tests.chaos.play import Play, Size
from tests.chaos.runner import Told, Trial, run_all
from tests.chaos.scenarios import PAIRS, Scenario

RELEASED = "2c1ea5662331ee9a638a2ff2247299620e4e9a41"
"""The commit of the version before, 0.1.0."""
READERS_FIRST = ("worker", "project", "dispatch", "emit", "gateway")
SECONDS_PER_EXCHANGE = 6.0


class Upgrade:
    """The steps of the scenario, from one tree of the source to another, back, and as often again as ``passes`` say."""

    def __init__(self, before: Path, after: Path, passes: int = 3) -> None:
        self._before, self._after, self._passes = before, after, passes

    async def __call__(self, play: Play) -> None:
        exchanges = self._passes * len(play.world.processes.all)
        await play.while_posting(exchanges * SECONDS_PER_EXCHANGE, self._up_and_down(play))

    async def _up_and_down(self, play: Play) -> None:
        play.world.newest_tree = self._after
        await asyncio.to_thread(play.world.cli, "migrate", tree=self._after)
        for number in range(self._passes):
            if number % 2 == 0:
                await self._replace(play, self._after, READERS_FIRST)
            else:
                await self._replace(play, self._before, READERS_FIRST[::-1])
        if self._passes % 2 == 0:
            # The version before leaves columns empty that the judge compares; the newest projector fills them.
            await self._replace(play, self._after, ("project",))

    async def _replace(self, play: Play, tree: Path, roles: tuple[str, ...]) -> None:
        for role in roles:
            for process in play.world.processes.of(role):
                await play.at_work()
                play.world.ledger.fault(f"SIGTERM, then {tree.name}", role)
                await play.world.processes.end(process)
                process.tree = tree
                process.start()


def upgrade(ref: str, before: Path, after: Path, counts: Mapping[str, int] = PAIRS, passes: int = 3) -> Scenario:
    """Return the scenario that upgrades from the commit ``ref`` with so many processes of each role."""
    return Scenario("upgrade", f"from {ref[:12]} and back", Upgrade(before, after, passes), counts)


def main() -> int:
    # Ended from outside, we must still end what we have started.
    signal.signal(signal.SIGTERM, _interrupt)
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.upgrade", description=__doc__)
    parser.add_argument("--before", default=RELEASED, help="the commit of the version before (default: 0.1.0)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(100_000), help="the dice")
    parser.add_argument("--emails", type=int, default=1000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mailfold-upgrade-"))
    folder.chmod(0o755)  # Postgres may run as another user
    before = source.copy(folder / "before", options.before)
    scenario = upgrade(options.before, before, source.copy(folder / "after"))
    try:
        [result] = asyncio.run(run_all([scenario], [options.seed], Trial(folder, before, Size(options.emails)), Told()))
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        return 130
    figures = f"{result.emails} emails, {result.faults} processes replaced, mails twice: {result.verdict.mails_twice}"
    print(f"{figures}, conversions twice: {result.verdict.conversions_twice}")
    if not result.held:
        print(f"BROKEN; logs: {folder}; again: --seed {options.seed}")
        shutil.rmtree(folder / "servers", ignore_errors=True)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
