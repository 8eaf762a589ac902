"""The whole dataflow of the worker on one screen.

    provider-webhooks ──▶ normalize ──▶ delivery-events ──┐
    send-requests, provider-acks, conversion-results ─────┴─▶ fold ──▶ email-states, email-changes
                          what neither can understand ──▶ dead-letters

Confirm, then store, then ack: whatever is interrupted is done again, and repeats change nothing.
"""

from pipeline.crashpoints import crash_point
from pipeline.steps import Folder, Normalizer
from pipeline.streaming.flow import Batches, Flow
from topics.registry import FACTS, PROVIDER_WEBHOOKS


def build(flow: Flow, normalizer: Normalizer, folder: Folder) -> Flow:
    """Declare both agents."""
    states = flow.states()

    @flow.source(PROVIDER_WEBHOOKS)
    async def normalize(webhooks: Batches) -> None:
        async for batch in webhooks:
            await flow.outlet.append(normalizer(batch.records()))
            crash_point("normalize.before-ack")
            batch.ack()

    @flow.source(*FACTS)
    async def fold(facts: Batches) -> None:
        async for batch in facts:
            steps = [folder(partition, run, states) for partition, run in batch.by_partition().items()]
            ends = await flow.outlet.write([write for step in steps for write in step.writes])
            crash_point("fold.before-store")
            for step in steps:
                states.keep(step.partition, step.states, ends)
            crash_point("fold.before-ack")
            batch.ack()

    return flow
