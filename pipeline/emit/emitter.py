"""A leased debt in, a conversion at Fast Track and its outcome on `conversion-results` out.

The outcome is on the log before the verdict closes the job: whoever dies in between tells it again.
"""

import random
from collections.abc import Callable
from typing import Final

from pipeline import admin
from pipeline.admin import Destination
from pipeline.emit import fasttrack
from pipeline.emit.fasttrack import ConversionReplyMeaning
from pipeline.emit.http import ConversionClient, ConversionResponse
from pipeline.jobs.engine import Lease
from pipeline.jobs.job import DONE, EndpointHealth, Job, JobResult, bury, release, retry
from pipeline.jobs.retry import next_delay, not_before
from pipeline.runtime.append import append_until_confirmed
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.ttl_cache import DECISION_TTL_S, MAX_DECISIONS, TTLCache
from projections.debts import PendingConversion, decode_conversion
from topics.conversions import ConversionOutcome, ConversionResult
from topics.registry import CONVERSION_RESULTS

NO_DESTINATION: Final = "no destination"
"""Why a lane waits; it goes on by itself when its brand gets one."""


class ConversionJobHandler:
    """The emitter's work.

    A job whose emitter fell silent is told again, whatever the brand's policy for mail says: the
    Idempotency-Key makes a repeat harmless, and every owed conversion must arrive at least once.
    """

    def __init__(self, rt: Runtime, call: ConversionClient, rand: Callable[[], float] = random.random) -> None:
        self._rt = rt
        self._secret = rt.settings.secret.get_secret_value()
        self._call = call
        self._random = rand
        self._destinations: TTLCache[tuple[str, str], Destination | None] = TTLCache(DECISION_TTL_S, MAX_DECISIONS)

    async def __call__(self, job: Job, lease: Lease) -> JobResult:
        """Tell one word of one email."""
        debt = decode_conversion(job.payload)
        destination = await self._destinations.get((debt.tenant, debt.brand), self._ask_destination)
        if destination is None:
            return release(0, NO_DESTINATION, pause=NO_DESTINATION)
        lease.begin_contact()
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

    def _judge(self, job: Job, reply: ConversionResponse) -> tuple[JobResult, ConversionOutcome]:
        said = f"{reply.status or ''} {reply.text}".strip()
        if reply.is_forbidden:
            return release(0, said, pause=said), ConversionOutcome.RETRYING
        meaning = fasttrack.reply_meaning(reply.status)
        if meaning is ConversionReplyMeaning.SETTLED:
            return DONE, ConversionOutcome.DELIVERED
        if meaning is ConversionReplyMeaning.REFUSED:
            return DONE, ConversionOutcome.REFUSED
        if meaning is ConversionReplyMeaning.PAUSE:
            return release(
                0, said, EndpointHealth.HEALTHY, pause=f"the destination answers {reply.status}"
            ), ConversionOutcome.RETRYING
        lane = EndpointHealth.FAILING if meaning is ConversionReplyMeaning.UNWELL else EndpointHealth.HEALTHY
        delay = self._delay(job, reply)
        if delay is None:
            return bury(f"gave up: {said}", lane), ConversionOutcome.GIVEN_UP
        return retry(delay, said, lane), ConversionOutcome.RETRYING

    def _delay(self, job: Job, reply: ConversionResponse) -> float | None:
        scheduled = next_delay(self._rt.settings.emit_schedule, job.tries, self._random)
        asked = fasttrack.retry_after_seconds(reply.status, reply.retry_after, self._rt.clock())
        if scheduled is None or asked is None:
            return scheduled
        return not_before(asked, self._random)

    async def _record(
        self,
        job: Job,
        debt: PendingConversion,
        destination: Destination,
        reply: ConversionResponse,
        outcome: ConversionOutcome,
    ) -> None:
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
            detail="" if outcome is ConversionOutcome.DELIVERED else reply.text,
        )
        await append_until_confirmed(self._rt.log, [LogEntry(CONVERSION_RESULTS, debt.email_id, result)])
