"""Records of `provider-acks` and `uncorrelated-events` in, what correlation learns of them out. Pure."""

from collections.abc import Iterable
from typing import Any

import msgspec

from pipeline.webhooks.message_ids import match_key
from projections.columns import is_storable_id
from projections.text import storable_text
from topics.acks import Ack, Acked
from topics.codec import Undecodable, decode
from topics.events import DeliveryEvent
from topics.record import EmailId, Millis
from topics.registry import PROVIDER_ACKS, Topic

MessageKey = tuple[str, str]
"""The provider's name here, and what it calls the message, in its one spelling."""


class UncorrelatedEvent(msgspec.Struct, frozen=True):
    """An event that names no email of ours."""

    key: MessageKey
    partition: int
    place: int
    """Its offset on `uncorrelated-events`."""
    since: Millis
    """When it was appended there; a dead letter that is replayed begins anew."""
    event: DeliveryEvent


class CorrelationBatch(msgspec.Struct):
    """What a stretch of both topics says."""

    ids: dict[tuple[MessageKey, EmailId], Millis] = msgspec.field(default_factory=dict)
    """Which email the provider calls so, and when it took custody."""
    waiting: list[UncorrelatedEvent] = msgspec.field(default_factory=list)
    broken: list[tuple[Any, str]] = msgspec.field(default_factory=list)
    """Consumer records that are none of ours, and why."""


def parse_records(topics: dict[str, Topic], records: Iterable[Any]) -> CorrelationBatch:
    """What these consumer records say; ``topics``: by their name on the cluster."""
    learnt = CorrelationBatch()
    for record in records:
        topic = topics[record.topic]
        try:
            fact = decode(topic, record.value)
            if topic is PROVIDER_ACKS:
                _ack(learnt, fact)
            else:
                learnt.waiting.append(_event(fact, record))
        except (Undecodable, ValueError) as error:
            # The intake tells the dead letters of a broken ack.
            if topic is not PROVIDER_ACKS:
                learnt.broken.append((record, str(error)))
    return learnt


def _ack(learnt: CorrelationBatch, ack: Ack) -> None:
    if isinstance(ack, Acked) and is_storable_id(ack.email_id) and (name := match_key(ack.provider_message_id)):
        learnt.ids.setdefault(((storable_text(ack.provider), name), ack.email_id), ack.recorded_at)


def _event(event: DeliveryEvent, record: Any) -> UncorrelatedEvent:
    """Raises ValueError for an event without a name to wait under."""
    name = match_key(event.provider_message_id)
    if not name or event.email_id:
        raise ValueError("an event that waits for an email needs what its provider calls the message, and no email yet")
    return UncorrelatedEvent(
        (storable_text(event.provider), name), record.partition, record.offset, record.timestamp, event
    )


def with_email_id(event: DeliveryEvent, email_id: EmailId) -> DeliveryEvent:
    """The event, told of its email."""
    return msgspec.structs.replace(event, email_id=email_id)
