"""Turn the result of a send into an ack on the log and the result of the job.

Called by the send job handler after the provider answered. The ack is always confirmed on the log before the job
result is returned, so that a crash in between repeats the ack but never loses it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.admin import Provider
from pipeline.dispatch.acks import AckWriter
from pipeline.dispatch.attempt import SendAttempt
from pipeline.dispatch.transports import smtp_replies
from pipeline.dispatch.transports.base import SendOutcome, SendResult
from pipeline.jobs.job import DONE, EndpointHealth, JobResult, bury, hold, release, retry
from pipeline.jobs.retry import next_delay
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.ports import Clock
from topics.acks import Acked, Deferred, Dropped, Failed, Rejected


class SendResultHandler:
    """The handler of send results: writes the ack, then returns the result of the job.

    ``schedule`` has the seconds between the attempts of an email.
    """

    def __init__(self, acks: AckWriter, schedule: Sequence[float], clock: Clock, rand: Callable[[], float]) -> None:
        self._acks = acks
        self._schedule = schedule
        self._clock = clock
        self._random = rand

    async def __call__(self, attempt: SendAttempt, provider: Provider, result: SendResult) -> JobResult:
        """Write the ack of a send result and return the result of its job."""
        outcome = result.outcome
        reply = _reply_fields(attempt, provider, result)
        error = f"{provider.provider}: {result.stage} {result.code or ''} {reply['text']}"
        if outcome is SendOutcome.TAKEN:
            return await self._write_acked(attempt, provider, result, reply)
        if outcome is SendOutcome.MISCONFIGURED and not result.concerns_one_email:
            return release(1, error, EndpointHealth.BROKEN)
        if outcome in (SendOutcome.REJECTED, SendOutcome.DROPPED):
            return await self._write_final(attempt, outcome, reply)
        if outcome is SendOutcome.REFUSED:
            return await self._acks.write_failure(attempt, "refused", error, **reply)
        if outcome is SendOutcome.UNKNOWN and attempt.brand.unknown_policy == "hold":
            return hold(f"it may have been sent: {error}")
        return await self._defer_or_give_up(attempt, result, error, reply)

    async def _write_acked(
        self, attempt: SendAttempt, provider: Provider, result: SendResult, reply: dict[str, Any]
    ) -> JobResult:
        crash_point("dispatch.after-250")
        custody = {"provider_message_id": result.provider_message_id, "means_delivered": provider.means_delivered}
        await self._acks.write_ack(Acked, attempt, **custody, **reply)
        crash_point("dispatch.after-ack")
        return DONE

    async def _write_final(self, attempt: SendAttempt, outcome: SendOutcome, reply: dict[str, Any]) -> JobResult:
        if outcome is SendOutcome.REJECTED:
            await self._acks.write_ack(Rejected, attempt, **reply)
        else:
            await self._acks.write_ack(Dropped, attempt, reason="suppressed by the provider", **reply)
        return DONE

    async def _defer_or_give_up(
        self, attempt: SendAttempt, result: SendResult, error: str, reply: dict[str, Any]
    ) -> JobResult:
        """Schedule the next attempt, or give up after the last one.

        A configuration fault that concerns one email also ends here. It opens the breaker of the lane, but it counts
        as an attempt: otherwise one email that always gets this answer could block its lane for ever.
        """
        delay = next_delay(self._schedule, attempt.job.tries, self._random, result.retry_after_s)
        if delay is None:
            await self._acks.write_ack(Failed, attempt, reason="gave up", **reply)
            return bury(f"gave up: {error}", result.health)
        due = self._clock() + int(delay * 1000)
        await self._acks.write_ack(Deferred, attempt, next_attempt_at=due, **reply)
        return retry(delay, error, result.health)


def _reply_fields(attempt: SendAttempt, provider: Provider, result: SendResult) -> dict[str, Any]:
    text = smtp_replies.ack_text(result, attempt.request.recipient)
    return {
        "provider": provider.provider,
        "code": max(result.code, 0),
        "enhanced": smtp_replies.enhanced_status(text),
        "text": text,
    }
