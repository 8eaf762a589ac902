"""The whole dataflow of the worker on one screen.

    provider-webhooks ──▶ normalize ──▶ delivery-events ──┐
                              └──▶ uncorrelated-events ──▶ dispatch ──▶ delivery-events
    send-requests, provider-acks, conversion-results ─────┴─▶ fold ──▶ email-states, email-changes
                          what neither can understand ──▶ dead-letters
    states of inactive emails ──▶ expiry ──▶ email-states: a tombstone

What the fold writes is in one transaction with the offsets of its facts. A webhook that is read again gives the same
events again, and repeats change nothing. `worker.main` builds it.
"""

from pipeline.runtime.kafka.skipped_records import SkippedRecords
from pipeline.worker.agents import FactFolder, Normalizer
from pipeline.worker.expiry import StateExpiry
from pipeline.worker.normalizing.backlog import NormalizingBacklog
from pipeline.worker.streaming.app import AgentBatches, WorkerFlow
from pipeline.worker.streaming.runs import AgentBatch
from topics.codec import NewerRecord
from topics.registry import FACT_TOPICS, PROVIDER_WEBHOOKS


def build_topology(flow: WorkerFlow, normalizer: Normalizer, folder: FactFolder, expiry: StateExpiry) -> WorkerFlow:
    """Declare both agents and the state expiry."""
    return add_folding(add_normalizing(flow, normalizer), folder).expire_states(expiry)


def add_normalizing(flow: WorkerFlow, normalizer: Normalizer) -> WorkerFlow:
    """Declare the agent that turns webhooks into events."""

    @flow.source(PROVIDER_WEBHOOKS)
    async def normalize(webhooks: AgentBatches) -> None:
        append, crash = flow.event_producer.append, flow.app.crash
        skipped = SkippedRecords(flow.settings)
        async with NormalizingBacklog(normalizer, append, crash, skipped, flow.tracer) as backlog:
            async for batch in webhooks:
                await backlog.add(batch.record_batch(), batch.ack)

    return flow


def add_folding(flow: WorkerFlow, folder: FactFolder) -> WorkerFlow:
    """Declare the agent that folds facts into states."""
    skipped = SkippedRecords(flow.settings)

    @flow.source(*FACT_TOPICS)
    async def fold(facts: AgentBatches) -> None:
        async for batch in facts:
            await fold_readable(batch, folder, skipped)

    return flow


async def fold_readable(batch: AgentBatch, folder: FactFolder, skipped: SkippedRecords) -> None:
    """Fold a batch without the records that an operator has skipped. Raise NewerRecord for any other."""
    records = batch.record_batch()
    while True:
        try:
            result = folder(records, batch.states)
        except NewerRecord as error:
            records = records.without((await skipped.require(error)).offset)
            if not batch.confirm_claim():
                return
        else:
            batch.add(result)
            return
