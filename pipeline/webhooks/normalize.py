"""A raw webhook in; its events in our words, and what can't be told, out. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

from pipeline.errors import NotFound, Uncorrelated, Unrecognised
from pipeline.runtime.consumed import ConsumedRecord
from pipeline.runtime.ports import LogEntry
from pipeline.webhooks import bots
from pipeline.webhooks.base import UNCORRELATED, Adapter, EventContext, TokenReaders
from pipeline.webhooks.message_ids import match_key
from pipeline.webhooks.providers.registry import adapter_for
from pipeline.webhooks.splitting import events_of
from topics.codec import Undecodable, decode, encode
from topics.dead_letters import DeadLetter, dead_letter
from topics.events import DeliveryEvent
from topics.ids import short_id
from topics.record import Millis
from topics.registry import DEAD_LETTERS, DELIVERY_EVENTS, MAX_RECORD_BYTES, UNCORRELATED_EVENTS
from topics.webhooks import RawWebhook

ROLE: Final = "normalize"
MAX_INLINE_BYTES: Final = 16_384
"""A webhook up to this size is normalized where it is read: some 30 events, about a millisecond. Larger ones, and every
mail, whose form is anybody's, are the work of a process with a time limit."""
_MAIL: Final = b"\xa4kind\xa4mail"
"""As a mail's record begins in MessagePack (:class:`topics.webhooks.RawWebhook`), within so many"""
_MAIL_SCAN_BYTES: Final = 500
_ENVELOPE: Final = 10_000


class EncodedRecord(msgspec.Struct, frozen=True, array_like=True):
    """A record on its way to a topic, encoded."""

    topic: str
    key: str | None
    value: bytes


class NormalizedWebhook(msgspec.Struct, frozen=True):
    """What a webhook said."""

    events: tuple[DeliveryEvent, ...]
    """Those without an email_id wait elsewhere until the ack of their message says whose they are."""
    dead_letters: tuple[DeadLetter, ...]

    def entries(self) -> list[LogEntry]:
        """Both, on their way to their topics."""
        return [_entry(event) for event in self.events] + [
            LogEntry(DEAD_LETTERS, None, letter) for letter in self.dead_letters
        ]


def _entry(event: DeliveryEvent) -> LogEntry:
    if event.email_id == UNCORRELATED:
        return LogEntry(UNCORRELATED_EVENTS, match_key(event.provider_message_id), event)
    return LogEntry(DELIVERY_EVENTS, event.email_id, event)


def is_heavy(value: bytes | None) -> bool:
    """Return whether a record of `provider-webhooks` is the work of a process."""
    return value is not None and (len(value) > MAX_INLINE_BYTES or value.find(_MAIL, 0, _MAIL_SCAN_BYTES) >= 0)


def normalized_records(found: ConsumedRecord, proofs: TokenReaders, now: Millis) -> list[EncodedRecord]:
    """Return what a webhook says, encoded; a dead letter where an adapter of ours fails at it.

    Whatever is wrong with one webhook, the others go on: a webhook that is read again would fail again for ever.
    """
    try:
        entries = normalize(found, proofs, now).entries()
        return [EncodedRecord(entry.topic.name, entry.key, encode(entry.topic, entry.record)) for entry in entries]
    except Exception as error:
        # The error's own text may quote an address.
        return encoded_dead_letters(
            [found.dead_letter(now, "failed", f"{type(error).__name__} in our reading of it", role=ROLE)]
        )


def encoded_dead_letters(letters: Sequence[DeadLetter]) -> list[EncodedRecord]:
    """Return dead letters on their way to their topic."""
    return [EncodedRecord(DEAD_LETTERS.name, None, encode(DEAD_LETTERS, letter)) for letter in letters]


def normalize(found: ConsumedRecord, proofs: TokenReaders, now: Millis) -> NormalizedWebhook:
    """Tell each event apart from those that can't be understood or name no email of ours; one spoils no other."""
    try:
        webhook: RawWebhook = decode(found.topic, found.value)
        reader = adapter_for(webhook.kind)
        headers = dict(webhook.headers)
        raw_events = events_of(reader, webhook.body, headers)
    except Undecodable as error:
        return NormalizedWebhook((), (found.dead_letter(now, "undecodable", str(error), role=ROLE),))
    except (NotFound, Unrecognised) as error:
        return NormalizedWebhook((), (found.dead_letter(now, "unrecognised", str(error), role=ROLE),))
    context = EventContext(
        provider=webhook.provider, received_at=webhook.received_at, headers=headers, token_readers=proofs
    )
    events: list[DeliveryEvent] = []
    leftovers: list[DeadLetter] = []
    for index, raw in enumerate(raw_events):
        try:
            events.append(_event(raw, reader, context))
        except (Unrecognised, Uncorrelated) as error:
            reason = type(error).__name__.lower()
            why = f"event {index}: {error}"
            leftovers.append(dead_letter(found.place, now, reason, why, role=ROLE, key=found.key, value=raw))
    return NormalizedWebhook(tuple(events), tuple(leftovers))


def _event(raw: bytes, reader: Adapter, context: EventContext) -> DeliveryEvent:
    if len(raw) > MAX_RECORD_BYTES - _ENVELOPE:
        raise Unrecognised(f"an event of {len(raw)} bytes")
    event = reader.normalize(raw, context)
    if event.email_id == UNCORRELATED and not match_key(event.provider_message_id):
        raise Uncorrelated("it names neither an email of ours nor its provider's message")
    named = short_id(event.event_id)
    if named != event.event_id:
        event = msgspec.structs.replace(event, event_id=named)
    return _fitting(bots.label_machine(event), len(raw))


def _fitting(event: DeliveryEvent, size: int) -> DeliveryEvent:
    """Words lie in it twice, the provider's and ours, and `[address]` is longer than many: it may have grown."""
    if size > MAX_RECORD_BYTES // 10 and (told := len(encode(DELIVERY_EVENTS, event))) > MAX_RECORD_BYTES:
        raise Unrecognised(f"an event that takes {told} bytes")
    return event
