"""A provider's answer in, the ack that tells it and the verdict that closes or re-opens the job out."""

from collections.abc import Callable
from typing import Any

from pipeline.admin import Provider
from pipeline.dispatch.acks import AckWriter
from pipeline.dispatch.attempt import SendAttempt
from pipeline.dispatch.transports import smtp_replies
from pipeline.dispatch.transports.base import SendOutcome, SendResult
from pipeline.jobs.job import DONE, EndpointHealth, JobResult, bury, hold, release, retry
from pipeline.jobs.retry import next_delay, not_before
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.crashpoints import crash_point
from topics.acks import Acked, Deferred, Dropped, Failed, Rejected


class SendResultHandler:
    """The ack first, and only then the verdict."""

    def __init__(self, rt: Runtime, reports: AckWriter, rand: Callable[[], float]) -> None:
        self._rt = rt
        self._reports = reports
        self._random = rand

    async def __call__(self, attempt: SendAttempt, provider: Provider, answer: SendResult) -> JobResult:
        """What the answer means for this email."""
        meaning = answer.outcome
        said = _words(attempt, provider, answer)
        error = f"{provider.provider}: {answer.stage} {answer.code or ''} {said['text']}"
        if meaning is SendOutcome.TAKEN:
            return await self._taken(attempt, provider, answer, said)
        if meaning is SendOutcome.MISCONFIGURED and not answer.concerns_one_email:
            return release(1, error, EndpointHealth.BROKEN)
        if meaning in (SendOutcome.REJECTED, SendOutcome.DROPPED):
            return await self._ended(attempt, meaning, said)
        if meaning is SendOutcome.REFUSED:
            return await self._reports.write_failure(attempt, "refused", error, **said)
        if meaning is SendOutcome.UNKNOWN and attempt.brand.unknown_policy == "hold":
            return hold(f"it may have been sent: {error}")
        return await self._later(attempt, answer, error, said)

    async def _taken(
        self, attempt: SendAttempt, provider: Provider, answer: SendResult, said: dict[str, Any]
    ) -> JobResult:
        crash_point("dispatch.after-250")
        taken = {"provider_message_id": answer.provider_message_id, "means_delivered": provider.means_delivered}
        await self._reports.write_ack(Acked, attempt, **taken, **said)
        crash_point("dispatch.after-ack")
        return DONE

    async def _ended(self, attempt: SendAttempt, meaning: SendOutcome, said: dict[str, Any]) -> JobResult:
        if meaning is SendOutcome.REJECTED:
            await self._reports.write_ack(Rejected, attempt, **said)
        else:
            await self._reports.write_ack(Dropped, attempt, reason="suppressed by the provider", **said)
        return DONE

    # A fault of the set-up that was said of one email comes here, too: it opens the lane's breaker, and the email
    # goes by the schedule, so that one which alone is told so can't stop the others again and again, for ever.
    async def _later(self, attempt: SendAttempt, answer: SendResult, error: str, said: dict[str, Any]) -> JobResult:
        delay = next_delay(self._rt.settings.dispatch_schedule, attempt.job.tries, self._random)
        if delay is None:
            await self._reports.write_ack(Failed, attempt, reason="gave up", **said)
            return bury(f"gave up: {error}", answer.health)
        delay = max(delay, not_before(answer.retry_after_s, self._random))
        due = self._rt.clock() + int(delay * 1000)
        await self._reports.write_ack(Deferred, attempt, next_attempt_at=due, **said)
        return retry(delay, error, answer.health)


def _words(attempt: SendAttempt, provider: Provider, answer: SendResult) -> dict[str, Any]:
    text = smtp_replies.ack_text(answer, attempt.request.recipient)
    return {
        "provider": provider.provider,
        "code": max(answer.code, 0),
        "enhanced": smtp_replies.enhanced_status(text),
        "text": text,
    }
