"""Convert records of `provider-acks` and `uncorrelated-events` into message ids and events to match.

Pure; called by the correlation loop.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.webhooks.provider_message_ids import match_key
from projections.columns import is_storable_id
from projections.text import storable_text
from topics.acks import Ack, Acked
from topics.codec import NewerRecord, Undecodable, decode
from topics.events import DeliveryEvent
from topics.record import EmailId, Millis
from topics.registry import PROVIDER_ACKS, Topic

MessageKey = tuple[str, str]
"""The name of the provider in our tables, and its message id, normalized by ``match_key``."""


EventPosition = tuple[int, int]
"""Partition and offset on `uncorrelated-events`."""


class UncorrelatedEvent(msgspec.Struct, frozen=True):
    """An event that names no email of ours, and where it was read."""

    key: MessageKey
    partition: int
    place: int
    """Offset on `uncorrelated-events`."""
    since: Millis
    """Time of the append to that topic; a replayed dead letter is appended anew, so it waits the full time again."""
    event: DeliveryEvent

    @property
    def position(self) -> EventPosition:
        """Return where it was read."""
        return self.partition, self.place


class CorrelationBatch(msgspec.Struct):
    """Message ids and events read from both topics in one poll."""

    ids: dict[tuple[MessageKey, EmailId], Millis] = msgspec.field(default_factory=dict)
    """Message id and the email that has it -> time of the ack."""
    waiting: list[UncorrelatedEvent] = msgspec.field(default_factory=list)
    broken: list[tuple[Any, str]] = msgspec.field(default_factory=list)
    """Consumer records that cannot be decoded, each with the error."""


def parse_records(topics: dict[str, Topic], records: Iterable[Any]) -> CorrelationBatch:
    """Return the message ids and events of consumer records; ``topics`` maps names on the cluster to topics.

    Raise NewerRecord for a version that only a newer dispatcher knows.
    """
    batch = CorrelationBatch()
    for record in records:
        topic = topics[record.topic]
        try:
            fact = decode(topic, record.value)
            if topic is PROVIDER_ACKS:
                _add_ack(batch, fact)
            else:
                batch.waiting.append(_uncorrelated(fact, record))
        except NewerRecord as error:
            raise error.at(ConsumedRecord.of(topic, record.partition, record).place) from None
        except (Undecodable, ValueError) as error:
            # The intake, which reads the acks too, writes the dead letters of broken ones.
            if topic is not PROVIDER_ACKS:
                batch.broken.append((record, str(error)))
    return batch


def _add_ack(batch: CorrelationBatch, ack: Ack) -> None:
    if isinstance(ack, Acked) and is_storable_id(ack.email_id) and (message_id := match_key(ack.provider_message_id)):
        batch.ids.setdefault(((storable_text(ack.provider), message_id), ack.email_id), ack.recorded_at)


def _uncorrelated(event: DeliveryEvent, record: Any) -> UncorrelatedEvent:
    """Return the event to park. Raise ValueError if it has neither message id nor claim, or already has an email."""
    message_id = match_key(event.provider_message_id)
    if not (message_id or is_storable_id(event.claimed_email_id)) or event.email_id:
        raise ValueError("an uncorrelated event needs a message id or a claimed email, and must not have an email id")
    return UncorrelatedEvent(
        (storable_text(event.provider), message_id), record.partition, record.offset, record.timestamp, event
    )


def with_email_id(event: DeliveryEvent, email_id: EmailId) -> DeliveryEvent:
    """Return the event with its email id set and its claim, which is now decided, removed."""
    return msgspec.structs.replace(event, email_id=email_id, claimed_email_id=EmailId(""))
