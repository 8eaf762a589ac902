"""Turn a stored webhook into DeliveryEvents and dead letters, without I/O.

The worker calls it for each record of `provider-webhooks`, and `mailfold renormalize` for those of the past.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from pipeline.errors import NotFound, Uncorrelated, Unrecognised
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.ports import LogEntry
from pipeline.webhooks import bots
from pipeline.webhooks.base import UNCORRELATED, Adapter, EventContext, TokenReaders
from pipeline.webhooks.provider_message_ids import match_key
from pipeline.webhooks.providers.registry import adapter_for
from pipeline.webhooks.splitting import events_of
from topics.codec import NewerRecord, Undecodable, decode, encode
from topics.dead_letters import DeadLetter, dead_letter
from topics.events import DeliveryEvent
from topics.ids import short_id
from topics.record import Millis
from topics.registry import DEAD_LETTERS, DELIVERY_EVENTS, MAX_RECORD_BYTES, UNCORRELATED_EVENTS
from topics.webhooks import RawWebhook

ROLE: Final = "normalize"
MAX_INLINE_BYTES: Final = 16_384
"""A webhook up to this size, about 30 events, is normalized in the event loop in about a millisecond. Larger ones and
all mail, whose structure a stranger chooses, are normalized in a separate process with a time limit."""
_MAIL_MARKER: Final = b"\xa4kind\xa4mail"
"""The MessagePack of `kind: mail` in a record (:class:`topics.webhooks.RawWebhook`)."""
_MAIL_SCAN_BYTES: Final = 500
"""Bytes at the beginning of a record in which the marker is looked for."""
_ENVELOPE_MAX_BYTES: Final = 10_000
"""Bytes of a record that are reserved for what is added to an event."""


class EncodedRecord(msgspec.Struct, frozen=True, array_like=True):
    """An encoded record that is to be appended to a topic."""

    topic: str
    key: str | None
    value: bytes


class NormalizedWebhook(msgspec.Struct, frozen=True):
    """The events and the dead letters of one webhook."""

    events: tuple[DeliveryEvent, ...]
    """Events that do not prove their email go to `uncorrelated-events` and wait there for an ack of their provider."""
    dead_letters: tuple[DeadLetter, ...]

    def entries(self) -> list[LogEntry]:
        """Return log entries for all events and dead letters."""
        return [_event_entry(event) for event in self.events] + [
            LogEntry(DEAD_LETTERS, None, letter) for letter in self.dead_letters
        ]


def _event_entry(event: DeliveryEvent) -> LogEntry:
    if event.email_id == UNCORRELATED:
        return LogEntry(UNCORRELATED_EVENTS, match_key(event.provider_message_id) or event.claimed_email_id, event)
    return LogEntry(DELIVERY_EVENTS, event.email_id, event)


def is_heavy(value: bytes | None) -> bool:
    """Return whether a record of `provider-webhooks` must be normalized in a separate process."""
    return value is not None and (len(value) > MAX_INLINE_BYTES or value.find(_MAIL_MARKER, 0, _MAIL_SCAN_BYTES) >= 0)


def normalized_records(record: ConsumedRecord, token_readers: TokenReaders, now: Millis) -> list[EncodedRecord]:
    """Return the encoded events and dead letters of a webhook; a single dead letter if its adapter raises.

    No other exception than NewerRecord may leave here: it would stop the partition, and the same record would fail
    again after a restart.
    """
    try:
        entries = normalize(record, token_readers, now).entries()
        return [EncodedRecord(entry.topic.name, entry.key, encode(entry.topic, entry.record)) for entry in entries]
    except NewerRecord as error:
        raise error.at(record.place) from None
    except Exception as error:
        # Only its class: the text of an error may quote an address.
        return encoded_dead_letters(
            [record.dead_letter(now, "failed", f"{type(error).__name__} in our reading of it", role=ROLE)]
        )


def encoded_dead_letters(letters: Sequence[DeadLetter]) -> list[EncodedRecord]:
    """Return dead letters as encoded records."""
    return [EncodedRecord(DEAD_LETTERS.name, None, encode(DEAD_LETTERS, letter)) for letter in letters]


def normalize(record: ConsumedRecord, token_readers: TokenReaders, now: Millis) -> NormalizedWebhook:
    """Return the events of a webhook, and a dead letter for each that is unrecognised or names no email of ours."""
    try:
        webhook: RawWebhook = decode(record.topic, record.value)
        adapter = adapter_for(webhook.kind)
        headers = dict(webhook.headers)
        raw_events = events_of(adapter, webhook.body, headers)
    except Undecodable as error:
        return NormalizedWebhook((), (record.dead_letter(now, "undecodable", str(error), role=ROLE),))
    except (NotFound, Unrecognised) as error:
        return NormalizedWebhook((), (record.dead_letter(now, "unrecognised", str(error), role=ROLE),))
    context = EventContext(
        provider=webhook.provider, received_at=webhook.received_at, headers=headers, token_readers=token_readers
    )
    events: list[DeliveryEvent] = []
    dead_letters: list[DeadLetter] = []
    for index, raw in enumerate(raw_events):
        try:
            events.append(_normalize_event(raw, adapter, context))
        except (Unrecognised, Uncorrelated) as error:
            reason = type(error).__name__.lower()
            message = f"event {index}: {error}"
            dead_letters.append(dead_letter(record.place, now, reason, message, role=ROLE, key=record.key, value=raw))
    return NormalizedWebhook(tuple(events), tuple(dead_letters))


def _normalize_event(raw: bytes, adapter: Adapter, context: EventContext) -> DeliveryEvent:
    if len(raw) > MAX_RECORD_BYTES - _ENVELOPE_MAX_BYTES:
        raise Unrecognised(f"an event of {len(raw)} bytes")
    event = adapter.normalize(raw, context)
    if event.email_id == UNCORRELATED and not (match_key(event.provider_message_id) or event.claimed_email_id):
        raise Uncorrelated("it names neither an email of ours nor its provider's message")
    event_id = short_id(event.event_id)
    if event_id != event.event_id:
        event = msgspec.structs.replace(event, event_id=event_id)
    event = bots.label_machine(event)
    _check_size(event, len(raw))
    return event


def _check_size(event: DeliveryEvent, raw_size: int) -> None:
    """Raise Unrecognised if the event is larger than a record; one with a small ``raw_size`` is not encoded for it.

    A normalized event can be larger than the provider's: it holds some texts twice, and `[address]` is longer than
    many addresses.
    """
    if raw_size > MAX_RECORD_BYTES // 10 and (size := len(encode(DELIVERY_EVENTS, event))) > MAX_RECORD_BYTES:
        raise Unrecognised(f"an event that takes {size} bytes")
