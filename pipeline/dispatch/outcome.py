"""A provider's answer in, the ack that tells it and the verdict that closes or re-opens the job out."""

from collections.abc import Callable
from typing import Any

from pipeline.admin import Provider
from pipeline.dispatch.acks import Reports
from pipeline.dispatch.attempt import Attempt
from pipeline.dispatch.transports import smtp_replies
from pipeline.dispatch.transports.base import Answer, Meaning
from pipeline.jobs.job import DONE, Lane, Verdict, bury, give_back, hold, retry
from pipeline.jobs.retry import next_delay, not_before
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.crashpoints import crash_point
from topics.acks import Acked, Deferred, Dropped, Failed, Rejected


class Conclude:
    """The ack first, and only then the verdict."""

    def __init__(self, rt: Runtime, reports: Reports, rand: Callable[[], float]) -> None:
        self._rt = rt
        self._reports = reports
        self._random = rand

    async def __call__(self, attempt: Attempt, provider: Provider, answer: Answer) -> Verdict:
        """What the answer means for this email."""
        meaning = answer.meaning
        said = _words(attempt, provider, answer)
        error = f"{provider.provider}: {answer.stage} {answer.code or ''} {said['text']}"
        if meaning is Meaning.TAKEN:
            return await self._taken(attempt, provider, answer, said)
        if meaning is Meaning.MISCONFIGURED and not answer.of_one:
            return give_back(1, error, Lane.BROKEN)
        if meaning in (Meaning.REJECTED, Meaning.DROPPED):
            return await self._ended(attempt, meaning, said)
        if meaning is Meaning.REFUSED:
            return await self._reports.failed(attempt, "refused", error, **said)
        if meaning is Meaning.UNKNOWN and attempt.brand.unknown_policy == "hold":
            return hold(f"it may have been sent: {error}")
        return await self._later(attempt, answer, error, said)

    async def _taken(self, attempt: Attempt, provider: Provider, answer: Answer, said: dict[str, Any]) -> Verdict:
        crash_point("dispatch.after-250")
        taken = {"provider_message_id": answer.provider_message_id, "means_delivered": provider.means_delivered}
        await self._reports.ack(Acked, attempt, **taken, **said)
        crash_point("dispatch.after-ack")
        return DONE

    async def _ended(self, attempt: Attempt, meaning: Meaning, said: dict[str, Any]) -> Verdict:
        if meaning is Meaning.REJECTED:
            await self._reports.ack(Rejected, attempt, **said)
        else:
            await self._reports.ack(Dropped, attempt, reason="suppressed by the provider", **said)
        return DONE

    # A fault of the set-up that was said of one email comes here, too: it opens the lane's breaker, and the email
    # goes by the schedule, so that one which alone is told so can't stop the others again and again, for ever.
    async def _later(self, attempt: Attempt, answer: Answer, error: str, said: dict[str, Any]) -> Verdict:
        delay = next_delay(self._rt.settings.dispatch_schedule, attempt.job.tries, self._random)
        if delay is None:
            await self._reports.ack(Failed, attempt, reason="gave up", **said)
            return bury(f"gave up: {error}", answer.lane)
        delay = max(delay, not_before(answer.retry_after, self._random))
        due = self._rt.clock() + int(delay * 1000)
        await self._reports.ack(Deferred, attempt, next_attempt_at=due, **said)
        return retry(delay, error, answer.lane)


def _words(attempt: Attempt, provider: Provider, answer: Answer) -> dict[str, Any]:
    text = smtp_replies.as_told(answer, attempt.request.recipient)
    return {
        "provider": provider.provider,
        "code": max(answer.code, 0),
        "enhanced": smtp_replies.enhanced(text),
        "text": text,
    }
