"""Convert records of `send-requests` and `provider-acks` into rows for the jobs table. Pure; called by the intake."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.runtime.kafka.consumed import ConsumedRecord
from topics.acks import Acked, Deferred, Dropped, Failed, Rejected
from topics.codec import NewerRecord, Undecodable, decode
from topics.registry import PROVIDER_ACKS, SEND_REQUESTS, Topic

JobEnd = tuple[str, int, str]
"""State, attempt and error."""


@dataclass
class IntakeRows:
    """Rows to write, at most one per email and kind: one SQL statement writes all of a kind."""

    requests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Email id -> lane and payload."""
    ends: dict[str, JobEnd] = field(default_factory=dict)
    deferrals: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Email id -> attempt and the time of the next one, in milliseconds since 1970."""
    broken: list[tuple[Any, str]] = field(default_factory=list)
    """Consumer records that cannot be decoded, each with the error."""


def parse_records(topics: dict[str, Topic], records: Iterable[Any]) -> IntakeRows:
    """Return the rows that consumer records amount to; ``topics`` maps names on the cluster to topics.

    Raise NewerRecord for a version that only a newer dispatcher knows.
    """
    rows = IntakeRows()
    for record in records:
        topic = topics[record.topic]
        try:
            fact = decode(topic, record.value)
            uuid.UUID(fact.email_id)
        except NewerRecord as error:
            raise error.at(ConsumedRecord.of(topic, record.partition, record).place) from None
        except (Undecodable, ValueError) as error:
            rows.broken.append((record, str(error)))
            continue
        if topic is SEND_REQUESTS:
            rows.requests.setdefault(fact.email_id, (f"{fact.tenant}/{fact.brand}", record.value))
        elif topic is PROVIDER_ACKS:
            _add_ack(rows, fact)
    return rows


def _add_ack(rows: IntakeRows, ack: Any) -> None:
    match ack:
        case Deferred():
            previous = rows.deferrals.get(ack.email_id, (0, 0))
            rows.deferrals[ack.email_id] = max(previous, (ack.attempt, ack.next_attempt_at))
        case Acked() | Rejected() | Dropped():
            _add_end(rows, ack.email_id, ("done", ack.attempt, ""))
        case Failed():
            _add_end(rows, ack.email_id, ("dead", ack.attempt, f"{ack.reason}: {ack.text}"[:500]))


def _add_end(rows: IntakeRows, email_id: str, end: JobEnd) -> None:
    """Add the end of an email: acceptance by a provider wins over any failure, otherwise the latest attempt wins."""
    previous = rows.ends.get(email_id)
    if previous is None or (end[0] == "done", end[1]) > (previous[0] == "done", previous[1]):
        rows.ends[email_id] = end
