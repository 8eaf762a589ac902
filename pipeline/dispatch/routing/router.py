"""Choose the provider of a leased job and store the choice before the provider is contacted.

Called by the send job handler. An email goes to one provider only, unless that one certainly did not accept it. So
if a brand has several providers, the choice is written into the job before the contact. A job that is claimed again
with such a choice (its last attempt ended in a crash or a lost connection, so its outcome is unknown) goes to the
same provider until that provider has answered.
"""

from collections.abc import Collection
from typing import NamedTuple

from pipeline.dispatch.routing.health import ProviderBreakers
from pipeline.dispatch.routing.rendezvous import ranked_providers
from pipeline.dispatch.routing.routes import SQL, BrandRouting
from pipeline.dispatch.transports.base import SendOutcome, SendResult
from pipeline.errors import LeaseLost
from pipeline.jobs.job import UNHEALTHY, EndpointHealth, Job
from pipeline.runtime.batching_loader import BatchLoader
from pipeline.runtime.postgres.database import Pool
from topics.record import EmailId


class _ProviderChoice(NamedTuple):
    stream: str
    seq: int
    token: str
    provider: str


class ProviderRouter:
    """Chooser of providers that also records their results."""

    def __init__(self, pool: Pool, smtp_timeout: float) -> None:
        self._pool = pool
        self._breakers = ProviderBreakers(pool, smtp_timeout)
        self._choices: BatchLoader[_ProviderChoice, bool] = BatchLoader(self._write_choices)

    async def choose_provider(self, job: Job, routing: BrandRouting, tried: Collection[str] = ()) -> str | None:
        """Return the provider to contact next, and store the choice.

        None means that no provider that may get the email is up. ``tried`` are the providers that this attempt has
        already contacted. Raises LeaseLost if the lease of the job was lost.
        """
        if (bound := bound_provider(job, routing)) is not None:
            if bound in tried or (not routing.only_provider and not await self._breakers.is_up(bound)):
                return None
            return bound
        for provider in ranked_providers(EmailId(job.stream), routing.routes):
            if provider not in tried and await self._breakers.is_up(provider):
                await self._store_choice(job, provider)
                return provider
        return None

    async def record_result(self, job: Job, routing: BrandRouting, provider: str, result: SendResult) -> None:
        """Record the result of a send for the health of the provider and for the stored choice of the job."""
        if routing.only_provider:
            if result.outcome is SendOutcome.UNKNOWN:
                # The brand may have got more providers by the next attempt; it must still go to this one.
                await self._store_choice(job, provider)
            return
        await self._breakers.record_health(provider, provider_health(result))
        if bound_provider(job, routing) is None and result.outcome in (SendOutcome.LATER, SendOutcome.MISCONFIGURED):
            await self._store_choice(job, "")

    async def _store_choice(self, job: Job, provider: str) -> None:
        if not await self._choices.get(_ProviderChoice(job.stream, job.seq, job.token, provider)):
            raise LeaseLost

    async def _write_choices(self, choices: set[_ProviderChoice]) -> dict[_ProviderChoice, bool]:
        columns = [list(column) for column in zip(*choices, strict=True)]
        values = dict(zip(("streams", "seqs", "tokens", "providers"), columns, strict=True))
        async with self._pool.connection() as connection:
            rows = await (await connection.execute(SQL["remember"], values)).fetchall()
        written = set(rows)
        return {choice: (choice.stream, choice.seq) in written for choice in choices}


def bound_provider(job: Job, routing: BrandRouting) -> str | None:
    """Return the only provider that may get the email; None if there is a choice.

    It is the one that may have accepted the email in an earlier attempt, or the only one that the brand has.
    """
    if job.route:
        return job.route
    if routing.only_provider:
        return routing.only_provider
    # The earlier attempt stored no choice, so the brand had only its own provider then.
    return routing.brand.provider if job.unknown else None


def provider_health(result: SendResult) -> EndpointHealth:
    """Return the health that a result shows of the provider, which all tenants share.

    A configuration fault that concerns one email, such as a sender that its tenant has not verified, shows nothing:
    it must not turn other tenants' mail away from the provider.
    """
    return (
        EndpointHealth.SILENT
        if result.concerns_one_email and result.outcome is SendOutcome.MISCONFIGURED
        else result.health
    )


def permits_failover(result: SendResult) -> bool:
    """Return whether another provider may get the email at once.

    It may if this provider certainly did not accept it, for a reason that is not about the email.
    """
    return result.health in UNHEALTHY and result.outcome in (SendOutcome.LATER, SendOutcome.MISCONFIGURED)
