"""The whole dataflow of the worker on one screen.

    provider-webhooks ──▶ normalize ──▶ delivery-events ──┐
                              └──▶ uncorrelated-events ──▶ dispatch ──▶ delivery-events
    send-requests, provider-acks, conversion-results ─────┴─▶ fold ──▶ email-states, email-changes
                          what neither can understand ──▶ dead-letters
    states of which nothing was heard for long ──▶ forget ──▶ email-states: a tombstone

What comes of the facts lies in one transaction with their offsets; a webhook that is read again gives the same
events again, and repeats change nothing.
"""

from pipeline.worker.agents import Folder, Normalizer
from pipeline.worker.expiry import Forgetter
from pipeline.worker.normalizing.backlog import Backlog
from pipeline.worker.streaming.app import Flow, Runs
from topics.registry import FACTS, PROVIDER_WEBHOOKS


def build(flow: Flow, normalizer: Normalizer, folder: Folder, forgetter: Forgetter) -> Flow:
    """Declare both agents, and what leaves the table again."""
    return folding(normalizing(flow, normalizer), folder).forget(forgetter)


def normalizing(flow: Flow, normalizer: Normalizer) -> Flow:
    """Webhooks to events."""

    @flow.source(PROVIDER_WEBHOOKS)
    async def normalize(webhooks: Runs) -> None:
        async with Backlog(normalizer, flow.outlet.append, flow.app.crash) as backlog:
            async for run in webhooks:
                await backlog.add(run.stretch(), run.ack)

    return flow


def folding(flow: Flow, folder: Folder) -> Flow:
    """Facts to states."""

    @flow.source(*FACTS)
    async def fold(facts: Runs) -> None:
        async for run in facts:
            run.add(folder(run.stretch(), run.states))

    return flow
