"""A leased job and its brand's way in, the provider to contact out, remembered before it is contacted.

An email goes to one provider only, unless that one surely did not take it. So where there is a choice,
the choice is written into the job before the contact; a job that comes back with one (its attempt's end
is not known: a crash, a lost line) goes where it went, and nowhere else, until that provider has said
what became of it.
"""

from collections.abc import Collection
from typing import NamedTuple

from pipeline.dispatch.routing.health import ProviderBreakers
from pipeline.dispatch.routing.rendezvous import ranked_providers
from pipeline.dispatch.routing.routes import SQL, BrandRouting
from pipeline.dispatch.transports.base import SendOutcome, SendResult
from pipeline.errors import LeaseLost
from pipeline.jobs.job import EndpointHealth, Job
from pipeline.runtime.batching_loader import BatchLoader
from pipeline.runtime.bootstrap import Runtime
from topics.record import EmailId

UNHEALTHY = (EndpointHealth.FAILING, EndpointHealth.BROKEN)


class _ProviderChoice(NamedTuple):
    stream: str
    seq: int
    token: str
    provider: str


class ProviderRouter:
    """Chooses providers, and hears how they did."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._health = ProviderBreakers(rt.pool, rt.settings.smtp_timeout)
        self._notes: BatchLoader[_ProviderChoice, bool] = BatchLoader(self._write)

    async def choose_provider(self, job: Job, way: BrandRouting, tried: Collection[str] = ()) -> str | None:
        """Whom to contact; None: nobody who may is up. Raises LeaseLost where the job isn't ours any more."""
        if (bound := bound_provider(job, way)) is not None:
            if bound in tried or (not way.only_provider and not await self._health.is_up(bound)):
                return None
            return bound
        for provider in ranked_providers(EmailId(job.stream), way.routes):
            if provider not in tried and await self._health.is_up(provider):
                await self._note(job, provider)
                return provider
        return None

    async def record_result(self, job: Job, way: BrandRouting, provider: str, answer: SendResult) -> None:
        """What became of it, and what that tells of the provider."""
        if way.only_provider:
            if answer.outcome is SendOutcome.UNKNOWN:
                # There may be a choice by the next attempt.
                await self._note(job, provider)
            return
        await self._health.record_health(provider, provider_health(answer))
        if bound_provider(job, way) is None and answer.outcome in (SendOutcome.LATER, SendOutcome.MISCONFIGURED):
            await self._note(job, "")

    async def _note(self, job: Job, provider: str) -> None:
        if not await self._notes.get(_ProviderChoice(job.stream, job.seq, job.token, provider)):
            raise LeaseLost

    async def _write(self, notes: set[_ProviderChoice]) -> dict[_ProviderChoice, bool]:
        columns = [list(column) for column in zip(*notes, strict=True)]
        values = dict(zip(("streams", "seqs", "tokens", "providers"), columns, strict=True))
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(SQL["remember"], values)).fetchall()
        ours = set(rows)
        return {note: (note.stream, note.seq) in ours for note in notes}


def bound_provider(job: Job, way: BrandRouting) -> str | None:
    """Who may have it from an attempt before, or is the only one; None: there is a choice."""
    if job.route:
        return job.route
    if way.only_provider:
        return way.only_provider
    # Somebody fell silent before there was a choice to remember: the brand had one provider then.
    return way.brand.provider if job.unknown else None


def provider_health(answer: SendResult) -> EndpointHealth:
    """Return what an answer tells of the provider itself.

    It is everybody's: a fault of the set-up that was said of one email, such as a sender that its tenant has not
    verified, must not turn other tenants' mail away from it.
    """
    return (
        EndpointHealth.SILENT
        if answer.concerns_one_email and answer.outcome is SendOutcome.MISCONFIGURED
        else answer.health
    )


def permits_failover(answer: SendResult) -> bool:
    """Whether another provider may get it at once: this one surely didn't take it, and not for the email's sake."""
    return answer.health in UNHEALTHY and answer.outcome in (SendOutcome.LATER, SendOutcome.MISCONFIGURED)
