"""Run scenarios with seeds on servers, check the guarantees, and keep the logs of runs that failed."""

import contextlib
import json
import random
import secrets
import shutil
import time
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.chaos import by_brokers, by_data, by_kill, by_receivers, by_servers  # noqa: F401  they register their scenarios
from tests.chaos.judge import Verdict, judge
from tests.chaos.play import Play, Size, Skipped
from tests.chaos.scenarios import Scenario
from tests.chaos.servers import Servers, servers, small_disk
from tests.chaos.traffic import Traffic, stories
from tests.chaos.world import Shape, World, product_env, world

SMALL_DISK_MB = 320
CAUGHT_UP = "caught up at the end"
ITSELF = "the scenario itself"
"""Name of breaches of the harness itself: it failed, or something that it needs was missing."""


@dataclass
class Result:
    """The result of one run of a scenario."""

    name: str
    seed: int
    emails: int
    folder: Path
    seconds: float = 0.0
    faults: int = 0
    exits: int = 0
    skipped: str = ""
    verdict: Verdict = field(default_factory=Verdict)
    notes: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        return not self.verdict.breaches


@dataclass(frozen=True)
class Trial:
    """The conditions of a run."""

    folder: Path
    tree: Path
    size: Size


async def run(scenario: Scenario, shared: Servers | None, seed: int, trial: Trial) -> Result:
    """Run a scenario and check the guarantees; the logs are kept if it failed.

    ``shared``: servers for scenarios that need none of their own.
    """
    folder = trial.folder / f"{scenario.name}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    result = Result(scenario.name, seed, trial.size.emails, folder)
    began = time.monotonic()
    try:
        async with _servers(scenario, shared, folder) as ours:
            await ours.ensure()
            await _play(scenario, ours, trial, result)
    except Skipped as skipped:
        result.skipped = str(skipped)
    except Exception:
        result.verdict.add(ITSELF, [traceback.format_exc()[-3000:]])
    result.seconds = time.monotonic() - began
    if result.held:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        (folder / "breaches.json").write_text(json.dumps(result.verdict.breaches, indent=1), encoding="utf-8")
    return result


@contextlib.asynccontextmanager
async def _servers(scenario: Scenario, shared: Servers | None, folder: Path) -> AsyncIterator[Servers]:
    """Yield the shared servers, or new ones: three brokers, or one of the servers on a small disk."""
    where = folder / "servers"
    if not scenario.has_own_servers:
        assert shared is not None
        yield shared
        return
    with contextlib.ExitStack() as mounted:
        if scenario.own_disk:
            try:
                mounted.enter_context(small_disk(where / scenario.own_disk, SMALL_DISK_MB))
            except (PermissionError, FileNotFoundError) as error:
                raise Skipped(str(error)) from error
        async with servers(where, scenario.brokers) as own:
            yield own


async def _play(scenario: Scenario, given: Servers, trial: Trial, result: Result) -> None:
    size = trial.size
    dice = random.Random(f"{scenario.name} {result.seed}")
    shape = Shape(scenario.counts, _role_env(scenario, given), scenario.brands, trial.tree)
    env = product_env(given.bootstrap, given.database(), f"chaos{secrets.token_hex(4)}-", given.replicas)
    async with (
        world(env, result.folder, shape) as place,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50)) as http,
    ):
        all_stories = stories(size.emails, scenario.brands, dice)
        traffic = Traffic(place, http, all_stories, dice)
        play = Play(place, traffic, given, dice, size, result.notes)
        left = await _perform(scenario, play, result.verdict)
        await traffic.close()
        await given.ensure()
        await place.processes.stop()
        place.ledger.write(result.folder)
        result.verdict.add(CAUGHT_UP, left)
        verdict = await judge(place, all_stories)
    result.verdict.breaches |= verdict.breaches
    result.verdict.mails_twice, result.verdict.conversions_twice = verdict.mails_twice, verdict.conversions_twice
    result.faults, result.exits = len(place.ledger.faults), len(place.ledger.exits)
    result.notes += _figures(place)


async def _perform(scenario: Scenario, play: Play, verdict: Verdict) -> list[str]:
    """Run the scenario; return what was still unfinished after the timeout."""
    whole = play.traffic.stories
    try:
        await play.warm_up()
        await scenario.run(play)
    except (Exception, ExceptionGroup):
        verdict.add(ITSELF, [traceback.format_exc()[-3000:]])
    play.traffic.stories = whole
    play.servers.proxy.let_go()
    await play.servers.ensure()
    return await play.settle(play.size.patience or 60 + play.size.emails / 10)


def _role_env(scenario: Scenario, given: Servers) -> dict[str, dict[str, str]]:
    made = {name: dict(values) for name, values in scenario.role_env().items()}
    for name in scenario.held:
        made.setdefault(name, {})["KAFKA_BOOTSTRAP"] = given.proxy.bootstrap
    return made


def _figures(place: World) -> list[str]:
    answered = ", ".join(f"{name} × {count}" for name, count in sorted(place.ledger.answers.items()))
    return [f"the gateway answered: {answered}"]


async def run_all(chosen: list[Scenario], seeds: list[int], trial: Trial, all_stories: "Told") -> list[Result]:
    """Run every scenario with every seed, on the same servers unless it needs its own."""
    results = []
    async with contextlib.AsyncExitStack() as stack:
        shared = None
        if not all(scenario.has_own_servers for scenario in chosen):
            shared = await stack.enter_async_context(servers(trial.folder / "servers"))
        for seed in seeds:
            for scenario in chosen:
                all_stories(f"{scenario.name} (seed {seed}): {scenario.what}")
                results.append(await run(scenario, shared, seed, trial))
                all_stories(_line(results[-1]))
    return results


class Told:
    """The receiver of progress messages."""

    def __call__(self, line: str) -> None:
        print(line, flush=True)


def _line(result: Result) -> str:
    if result.skipped:
        return f"  skipped: {result.skipped}"
    if result.held:
        return f"  held, {result.seconds:.0f} s"
    return "\n    ".join(["  BROKEN; logs: " + str(result.folder), *result.verdict.shown()])
