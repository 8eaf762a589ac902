"""Write the result of a send attempt to `provider-acks`, and wait until Kafka has confirmed it.

Called by the send job handler: the job is settled only after its ack is on the log.
"""

from typing import Any

from pipeline.dispatch.attempt import SendAttempt
from pipeline.jobs.job import EndpointHealth, JobResult, bury
from pipeline.runtime.kafka.append import AppendGate, append_until_confirmed
from pipeline.runtime.ports import Clock, Log, LogEntry
from topics.acks import Ack, Failed
from topics.dead_letters import DeadLetter, dead_letter
from topics.ids import event_id
from topics.record import LogPosition
from topics.registry import DEAD_LETTERS, PROVIDER_ACKS


class AckWriter:
    """Writer of the acks and dead letters of send attempts."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._gate = AppendGate()

    async def write_ack(self, kind: type[Any], attempt: SendAttempt, **values: Any) -> None:
        """Append one ack of class ``kind`` and return when Kafka has confirmed it; ``values`` are fields of the ack."""
        ack = self._create_ack(kind, attempt, **values)
        await self._gate.wait()
        await append_until_confirmed(self._log, [LogEntry(PROVIDER_ACKS, ack.email_id, ack)])

    async def write_failure(
        self, attempt: SendAttempt, reason: str, error: str, source: LogPosition | None = None, **values: Any
    ) -> JobResult:
        """Append a `Failed` ack and return the result that buries the job.

        With ``source``, the position of the record at fault, a dead letter is appended as well.
        """
        failed = self._create_ack(Failed, attempt, reason=reason, **values)
        entries = [LogEntry(PROVIDER_ACKS, attempt.request.email_id, failed)]
        if source is not None:
            entries.append(LogEntry(DEAD_LETTERS, None, self._dead_letter(attempt, source, reason, error)))
        await append_until_confirmed(self._log, entries)
        return bury(f"{reason}: {error}", EndpointHealth.SILENT)

    def _create_ack(self, kind: type[Any], attempt: SendAttempt, **values: Any) -> Ack:
        now = self._clock()
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

    def _dead_letter(self, attempt: SendAttempt, source: LogPosition, reason: str, error: str) -> DeadLetter:
        key, value = attempt.request.email_id.encode(), attempt.job.payload
        return dead_letter(source, self._clock(), reason, error, role="dispatch", key=key, value=value)
