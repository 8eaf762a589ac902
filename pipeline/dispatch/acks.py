"""What became of an attempt in, its ack on `provider-acks` out, confirmed before anybody acts on it."""

from typing import Any

from pipeline.dispatch.attempt import SendAttempt
from pipeline.jobs.job import EndpointHealth, JobResult, bury
from pipeline.runtime.append import append_until_confirmed
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.ports import LogEntry
from topics.acks import Ack, Failed
from topics.dead_letters import DeadLetter, dead_letter
from topics.ids import event_id
from topics.record import LogPosition
from topics.registry import DEAD_LETTERS, PROVIDER_ACKS


class AckWriter:
    """Writes acks and dead letters."""

    def __init__(self, rt: Runtime) -> None:
        self._rt = rt

    async def write_ack(self, kind: type[Any], attempt: SendAttempt, **values: Any) -> None:
        """One ack, on the log when this returns."""
        ack = self._made(kind, attempt, **values)
        await append_until_confirmed(self._rt.log, [LogEntry(PROVIDER_ACKS, ack.email_id, ack)])

    async def write_failure(
        self, attempt: SendAttempt, reason: str, error: str, source: LogPosition | None = None, **said: Any
    ) -> JobResult:
        """A failure that the caller hears of; with ``source``, a dead letter as well."""
        failed = self._made(Failed, attempt, reason=reason, **said)
        entries = [LogEntry(PROVIDER_ACKS, attempt.request.email_id, failed)]
        if source is not None:
            entries.append(LogEntry(DEAD_LETTERS, None, self._letter(attempt, source, reason, error)))
        await append_until_confirmed(self._rt.log, entries)
        return bury(f"{reason}: {error}", EndpointHealth.SILENT)

    def _made(self, kind: type[Any], attempt: SendAttempt, **values: Any) -> Ack:
        now = self._rt.clock()
        name = kind.__name__.lower()
        fields: dict[str, Any] = {"provider": attempt.bound_provider} | values
        ack: Ack = kind(
            email_id=attempt.request.email_id,
            event_id=event_id("dispatch", attempt.request.email_id, name, str(attempt.job.attempt)),
            occurred_at=now,
            recorded_at=now,
            attempt=attempt.job.attempt,
            **fields,
        )
        return ack

    def _letter(self, attempt: SendAttempt, source: LogPosition, reason: str, error: str) -> DeadLetter:
        key, value = attempt.request.email_id.encode(), attempt.job.payload
        return dead_letter(source, self._rt.clock(), reason, error, role="dispatch", key=key, value=value)
