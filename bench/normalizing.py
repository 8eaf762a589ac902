"""`python -m bench.normalizing`: the worker with its normalizing agent only, so that folding is not measured."""

import asyncio

import uvloop

from pipeline.runtime.bootstrap import wall_clock
from pipeline.runtime.environment import load_settings
from pipeline.runtime.observing.logs import configure_logging
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from pipeline.webhooks.token_readers import token_readers
from pipeline.worker.agents import Normalizer
from pipeline.worker.main import tune_garbage_collector
from pipeline.worker.normalizing.pool import open_normalizer_pool
from pipeline.worker.streaming.app import AgentBatches, WorkerFlow
from pipeline.worker.streaming.producer import open_event_producer
from pipeline.worker.streaming.runner import run_flow
from pipeline.worker.topology import add_normalizing
from topics.registry import FACT_TOPICS


async def serve(settings: Settings) -> None:
    """Run the agent until the process is stopped."""
    tune_garbage_collector()
    async with open_event_producer(settings) as out, open_normalizer_pool(settings, wall_clock) as pool:
        normalizer = Normalizer(wall_clock, token_readers(secret_ring(settings)), pool.normalize)
        flow = add_normalizing(WorkerFlow(settings, out), normalizer)

        @flow.source(*FACT_TOPICS)
        async def fold(facts: AgentBatches) -> None:
            """Discard facts. They need an agent: if their queue were full, webhooks would be blocked too."""
            async for _ in facts:
                pass

        await run_flow(flow)


if __name__ == "__main__":
    found = load_settings()
    configure_logging(found)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(found))
