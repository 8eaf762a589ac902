"""The whole dataflow of the worker on one screen.

    provider-webhooks ──▶ normalize ──▶ delivery-events ──┐
                              └──▶ uncorrelated-events ──▶ dispatch ──▶ delivery-events
    send-requests, provider-acks, conversion-results ─────┴─▶ fold ──▶ email-states, email-changes
                          what neither can understand ──▶ dead-letters
    states of which nothing was heard for long ──▶ forget ──▶ email-states: a tombstone

What comes of the facts lies in one transaction with their offsets; a webhook that is read again gives the same
events again, and repeats change nothing.
"""

from pipeline.worker.agents import FactFolder, Normalizer
from pipeline.worker.expiry import StateExpiry
from pipeline.worker.normalizing.backlog import NormalizingBacklog
from pipeline.worker.streaming.app import AgentBatches, WorkerFlow
from topics.registry import FACT_TOPICS, PROVIDER_WEBHOOKS


def build_topology(flow: WorkerFlow, normalizer: Normalizer, folder: FactFolder, forgetter: StateExpiry) -> WorkerFlow:
    """Declare both agents, and what leaves the table again."""
    return add_folding(add_normalizing(flow, normalizer), folder).expire_states(forgetter)


def add_normalizing(flow: WorkerFlow, normalizer: Normalizer) -> WorkerFlow:
    """Webhooks to events."""

    @flow.source(PROVIDER_WEBHOOKS)
    async def normalize(webhooks: AgentBatches) -> None:
        async with NormalizingBacklog(normalizer, flow.event_producer.append, flow.app.crash) as backlog:
            async for run in webhooks:
                await backlog.add(run.record_batch(), run.ack)

    return flow


def add_folding(flow: WorkerFlow, folder: FactFolder) -> WorkerFlow:
    """Facts to states."""

    @flow.source(*FACT_TOPICS)
    async def fold(facts: AgentBatches) -> None:
        async for run in facts:
            run.add(folder(run.record_batch(), run.states))

    return flow
