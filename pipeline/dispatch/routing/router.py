"""A leased job and its brand's way in, the provider to contact out, remembered before it is contacted.

An email goes to one provider only, unless that one surely did not take it. So where there is a choice,
the choice is written into the job before the contact; a job that comes back with one (its attempt's end
is not known: a crash, a lost line) goes where it went, and nowhere else, until that provider has said
what became of it.
"""

from collections.abc import Collection
from typing import NamedTuple

from pipeline.dispatch.routing.health import Health
from pipeline.dispatch.routing.rendezvous import ranked
from pipeline.dispatch.routing.routes import SQL, Way
from pipeline.dispatch.transports.base import Answer, Meaning
from pipeline.errors import LeaseLost
from pipeline.jobs.job import Job, Lane
from pipeline.runtime.batching_loader import Coalesced
from pipeline.runtime.bootstrap import Runtime
from topics.record import EmailId

UNWELL = (Lane.FAILING, Lane.BROKEN)


class _Note(NamedTuple):
    stream: str
    seq: int
    token: str
    provider: str


class Router:
    """Chooses providers, and hears how they did."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt
        self._health = Health(rt.pool, rt.settings.smtp_timeout)
        self._notes: Coalesced[_Note, bool] = Coalesced(self._write)

    async def next(self, job: Job, way: Way, tried: Collection[str] = ()) -> str | None:
        """Whom to contact; None: nobody who may is up. Raises LeaseLost where the job isn't ours any more."""
        if (bound := bound_to(job, way)) is not None:
            if bound in tried or (not way.only and not await self._health.up(bound)):
                return None
            return bound
        for provider in ranked(EmailId(job.stream), way.routes):
            if provider not in tried and await self._health.up(provider):
                await self._note(job, provider)
                return provider
        return None

    async def heard(self, job: Job, way: Way, provider: str, answer: Answer) -> None:
        """What became of it, and what that tells of the provider."""
        if way.only:
            if answer.meaning is Meaning.UNKNOWN:
                # There may be a choice by the next attempt.
                await self._note(job, provider)
            return
        await self._health.told(provider, news_of(answer))
        if bound_to(job, way) is None and answer.meaning in (Meaning.LATER, Meaning.MISCONFIGURED):
            await self._note(job, "")

    async def _note(self, job: Job, provider: str) -> None:
        if not await self._notes.get(_Note(job.stream, job.seq, job.token, provider)):
            raise LeaseLost

    async def _write(self, notes: set[_Note]) -> dict[_Note, bool]:
        columns = [list(column) for column in zip(*notes, strict=True)]
        values = dict(zip(("streams", "seqs", "tokens", "providers"), columns, strict=True))
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(SQL["remember"], values)).fetchall()
        ours = set(rows)
        return {note: (note.stream, note.seq) in ours for note in notes}


def bound_to(job: Job, way: Way) -> str | None:
    """Who may have it from an attempt before, or is the only one; None: there is a choice."""
    if job.route:
        return job.route
    if way.only:
        return way.only
    # Somebody fell silent before there was a choice to remember: the brand had one provider then.
    return way.brand.provider if job.unknown else None


def news_of(answer: Answer) -> Lane:
    """Return what an answer tells of the provider itself.

    It is everybody's: a fault of the set-up that was said of one email, such as a sender that its tenant has not
    verified, must not turn other tenants' mail away from it.
    """
    return Lane.SILENT if answer.of_one and answer.meaning is Meaning.MISCONFIGURED else answer.lane


def moves_on(answer: Answer) -> bool:
    """Whether another provider may get it at once: this one surely didn't take it, and not for the email's sake."""
    return answer.lane in UNWELL and answer.meaning in (Meaning.LATER, Meaning.MISCONFIGURED)
