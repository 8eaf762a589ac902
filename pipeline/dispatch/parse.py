"""Records of `send-requests` and `provider-acks` in, rows for the jobs table out. Pure."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from topics.acks import Acked, Deferred, Dropped, Failed, Rejected
from topics.codec import Undecodable, decode
from topics.registry import PROVIDER_ACKS, SEND_REQUESTS, Topic

JobEnd = tuple[str, int, str]
"""State, attempt, error."""


@dataclass
class IntakeRows:
    """One row per email and kind, because one statement writes them all."""

    requests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Email id -> lane, payload."""
    ends: dict[str, JobEnd] = field(default_factory=dict)
    deferrals: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Email id -> attempt, due."""
    broken: list[tuple[Any, str]] = field(default_factory=list)
    """Consumer records that are none of ours, and why."""


def parse_records(topics: dict[str, Topic], records: Iterable[Any]) -> IntakeRows:
    """What these consumer records say; ``topics``: by their name on the cluster."""
    rows = IntakeRows()
    for record in records:
        topic = topics[record.topic]
        try:
            fact = decode(topic, record.value)
            uuid.UUID(fact.email_id)
        except (Undecodable, ValueError) as error:
            rows.broken.append((record, str(error)))
            continue
        if topic is SEND_REQUESTS:
            rows.requests.setdefault(fact.email_id, (f"{fact.tenant}/{fact.brand}", record.value))
        elif topic is PROVIDER_ACKS:
            _read_ack(rows, fact)
    return rows


def _read_ack(rows: IntakeRows, ack: Any) -> None:
    match ack:
        case Deferred():
            known = rows.deferrals.get(ack.email_id, (0, 0))
            rows.deferrals[ack.email_id] = max(known, (ack.attempt, ack.next_attempt_at))
        case Acked() | Rejected() | Dropped():
            _end(rows, ack.email_id, ("done", ack.attempt, ""))
        case Failed():
            _end(rows, ack.email_id, ("dead", ack.attempt, f"{ack.reason}: {ack.text}"[:500]))


def _end(rows: IntakeRows, email_id: str, end: JobEnd) -> None:
    """Custody once taken is the end, whatever failed before or after; else the latest attempt's word counts."""
    known = rows.ends.get(email_id)
    if known is None or (end[0] == "done", end[1]) > (known[0] == "done", known[1]):
        rows.ends[email_id] = end
