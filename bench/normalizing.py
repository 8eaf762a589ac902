"""`python -m bench.normalizing`: the worker with its first agent only, so that the fold's work is not in the figure."""

import asyncio

import uvloop

from pipeline.runtime.bootstrap import configure_logging, wall_clock
from pipeline.settings import Settings, load
from pipeline.webhooks.proofs import proofs_of
from pipeline.worker.agents import Normalizer
from pipeline.worker.main import spare_the_collector
from pipeline.worker.normalizing.pool import normalizer_pool
from pipeline.worker.streaming.app import Flow, Runs
from pipeline.worker.streaming.producer import outlet
from pipeline.worker.streaming.runner import run
from pipeline.worker.topology import normalizing
from topics.registry import FACTS


async def serve(settings: Settings) -> None:
    """Until it is told to stop."""
    spare_the_collector()
    async with outlet(settings) as out, normalizer_pool(settings, wall_clock) as pool:
        normalizer = Normalizer(wall_clock, proofs_of(settings), pool.normalize)
        flow = normalizing(Flow(settings, out), normalizer)

        @flow.source(*FACTS)
        async def fold(facts: Runs) -> None:
            """The lanes want an agent for the facts; this one takes them: a full queue would hold up webhooks, too."""
            async for _ in facts:
                pass

        await run(flow)


if __name__ == "__main__":
    found = load()
    configure_logging(found)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(found))
