"""A leased debt in, a conversion at Fast Track and its outcome on `conversion-results` out.

The outcome is on the log before the verdict closes the job: whoever dies in between tells it again.
"""

import random
from collections.abc import Callable
from typing import Final

from pipeline import admin
from pipeline.admin import Destination
from pipeline.emit import fasttrack
from pipeline.emit.fasttrack import Meaning
from pipeline.emit.http import Caller, Reply
from pipeline.jobs.engine import Lease
from pipeline.jobs.job import DONE, Job, Lane, Verdict, bury, give_back, retry
from pipeline.jobs.retry import next_delay, not_before
from pipeline.runtime.append import append_until_confirmed
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.ports import Entry
from pipeline.runtime.ttl_cache import DECISION_TTL_S, MAX_DECISIONS, TTLCache
from projections.debts import Debt, decode
from topics.conversions import ConversionResult, Outcome
from topics.registry import CONVERSION_RESULTS

NO_DESTINATION: Final = "no destination"
"""Why a lane waits; it goes on by itself when its brand gets one."""


class Tell:
    """The emitter's work.

    A job whose emitter fell silent is told again, whatever the brand's policy for mail says: the
    Idempotency-Key makes a repeat harmless, and every owed conversion must arrive at least once.
    """

    def __init__(self, rt: Runtime, call: Caller, rand: Callable[[], float] = random.random) -> None:
        self._rt = rt
        self._secret = rt.settings.secret.get_secret_value()
        self._call = call
        self._random = rand
        self._destinations: TTLCache[tuple[str, str], Destination | None] = TTLCache(DECISION_TTL_S, MAX_DECISIONS)

    async def __call__(self, job: Job, lease: Lease) -> Verdict:
        """Tell one word of one email."""
        debt = decode(job.payload)
        destination = await self._destinations.get((debt.tenant, debt.brand), self._ask_destination)
        if destination is None:
            return give_back(0, NO_DESTINATION, pause=NO_DESTINATION)
        lease.contact()
        url = fasttrack.url(destination.url)
        body = fasttrack.body(debt, user_id_integer=destination.user_id_integer)
        reply = await self._call.post(url, body, fasttrack.headers(debt, destination.key))
        if 200 <= reply.status < 300:
            crash_point("emit.after-2xx")
        verdict, outcome = self._judge(job, reply)
        await self._record(job, debt, destination, reply, outcome)
        crash_point("emit.after-result")
        return verdict

    async def _ask_destination(self, key: tuple[str, str]) -> Destination | None:
        return await admin.get_destination(self._rt.pool, *key, self._secret)

    def _judge(self, job: Job, reply: Reply) -> tuple[Verdict, Outcome]:
        said = f"{reply.status or ''} {reply.text}".strip()
        if reply.forbidden:
            return give_back(0, said, pause=said), Outcome.RETRYING
        meaning = fasttrack.meaning(reply.status)
        if meaning is Meaning.SETTLED:
            return DONE, Outcome.DELIVERED
        if meaning is Meaning.REFUSED:
            return DONE, Outcome.REFUSED
        if meaning is Meaning.PAUSE:
            return give_back(0, said, Lane.HEALTHY, pause=f"the destination answers {reply.status}"), Outcome.RETRYING
        lane = Lane.FAILING if meaning is Meaning.UNWELL else Lane.HEALTHY
        delay = self._delay(job, reply)
        if delay is None:
            return bury(f"gave up: {said}", lane), Outcome.GIVEN_UP
        return retry(delay, said, lane), Outcome.RETRYING

    def _delay(self, job: Job, reply: Reply) -> float | None:
        scheduled = next_delay(self._rt.settings.emit_schedule, job.tries, self._random)
        asked = fasttrack.retry_after(reply.status, reply.retry_after, self._rt.clock())
        if scheduled is None or asked is None:
            return scheduled
        return not_before(asked, self._random)

    async def _record(self, job: Job, debt: Debt, destination: Destination, reply: Reply, outcome: Outcome) -> None:
        now = self._rt.clock()
        result = ConversionResult(
            email_id=debt.email_id,
            event_id=fasttrack.result_id(debt, job.attempt, outcome),
            word=debt.word,
            outcome=outcome,
            occurred_at=now,
            recorded_at=now,
            destination=f"{destination.tenant}/{destination.brand}",
            attempt=job.attempt,
            status=reply.status,
            detail="" if outcome is Outcome.DELIVERED else reply.text,
        )
        await append_until_confirmed(self._rt.log, [Entry(CONVERSION_RESULTS, debt.email_id, result)])
