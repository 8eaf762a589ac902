"""Handle an `emit` job: send a conversion to Fast Track and append its outcome to `conversion-results`.

Called by the job engine of `mailfold emit`. The outcome is on the log before the job is settled, so a crash in between
sends the conversion again.
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
from pipeline.jobs.retry import next_delay
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.kafka.append import AppendGate, append_until_confirmed
from pipeline.runtime.observing.tracing import HEADER, current_span
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.ttl_cache import DECISION_TTL_S, MAX_DECISIONS, TTLCache
from projections.pending_conversions import PendingConversion, decode_conversion
from topics.conversions import ConversionOutcome, ConversionResult
from topics.registry import CONVERSION_RESULTS

NO_DESTINATION: Final = "no destination"
"""Reason stored with a paused lane; the lane resumes by itself when its brand gets a destination."""


class ConversionJobHandler:
    """The job handler of the emitter.

    A job whose outcome is unknown is sent again, whatever the policy of the brand for emails is: the Idempotency-Key
    makes a repeat harmless, and every pending conversion must arrive at least once.
    """

    def __init__(self, rt: Runtime, client: ConversionClient, rand: Callable[[], float] = random.random) -> None:
        self._rt = rt
        self._ring = secret_ring(rt.settings)
        self._client = client
        self._random = rand
        self._gate = AppendGate()
        self._destinations: TTLCache[tuple[str, str], Destination | None] = TTLCache(DECISION_TTL_S, MAX_DECISIONS)

    async def __call__(self, job: Job, lease: Lease) -> JobResult:
        """Send one conversion, which is one delivery status of one email, and return how the job ended."""
        conversion = decode_conversion(job.payload)
        destination = await self._destinations.get((conversion.tenant, conversion.brand), self._load_destination)
        if destination is None:
            return release(0, NO_DESTINATION, pause=NO_DESTINATION)
        lease.begin_contact()
        url = fasttrack.url(destination.url)
        body = fasttrack.body(conversion, user_id_integer=destination.user_id_integer)
        headers = fasttrack.headers(conversion, destination.key)
        if traceparent := current_span().traceparent:
            headers[HEADER] = traceparent
        reply = await self._client.post(url, body, headers)
        if 200 <= reply.status < 300:
            crash_point("emit.after-2xx")
        result, outcome = self._interpret(job, reply)
        await self._append_result(job, conversion, destination, reply, outcome)
        crash_point("emit.after-result")
        return result

    async def _load_destination(self, key: tuple[str, str]) -> Destination | None:
        return await admin.get_destination(self._rt.pool, *key, self._ring)

    def _interpret(self, job: Job, reply: ConversionResponse) -> tuple[JobResult, ConversionOutcome]:
        error = f"{reply.status or ''} {reply.text}".strip()
        if reply.is_forbidden:
            return release(0, error, pause=error), ConversionOutcome.RETRYING
        meaning = fasttrack.reply_meaning(reply.status)
        if meaning is ConversionReplyMeaning.SETTLED:
            return DONE, ConversionOutcome.DELIVERED
        if meaning is ConversionReplyMeaning.REFUSED:
            return DONE, ConversionOutcome.REFUSED
        if meaning is ConversionReplyMeaning.PAUSE:
            pause = f"the destination answers {reply.status}"
            return release(0, error, EndpointHealth.HEALTHY, pause=pause), ConversionOutcome.RETRYING
        health = EndpointHealth.FAILING if meaning is ConversionReplyMeaning.UNWELL else EndpointHealth.HEALTHY
        requested_s = fasttrack.retry_after_seconds(reply.status, reply.retry_after, self._rt.clock())
        delay = next_delay(self._rt.settings.emit_schedule, job.tries, self._random, requested_s or 0)
        if delay is None:
            return bury(f"gave up: {error}", health), ConversionOutcome.GIVEN_UP
        return retry(delay, error, health), ConversionOutcome.RETRYING

    async def _append_result(
        self,
        job: Job,
        conversion: PendingConversion,
        destination: Destination,
        reply: ConversionResponse,
        outcome: ConversionOutcome,
    ) -> None:
        now = self._rt.clock()
        result = ConversionResult(
            email_id=conversion.email_id,
            event_id=fasttrack.result_id(conversion, job.attempt, outcome),
            word=conversion.word,
            outcome=outcome,
            occurred_at=now,
            recorded_at=now,
            destination=f"{destination.tenant}/{destination.brand}",
            attempt=job.attempt,
            status=reply.status,
            detail="" if outcome is ConversionOutcome.DELIVERED else reply.text,
        )
        await self._gate.wait()
        await append_until_confirmed(self._rt.log, [LogEntry(CONVERSION_RESULTS, conversion.email_id, result)])
