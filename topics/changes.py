"""`email-changes`: facts with the state after them, and ticks.

The worker writes changes; the projector writes ticks and reads both.

The projection numbers versions in log order: a number inside the state would break the join, and one made by the fold
would differ after a crash between two batches.
"""

import msgspec

from topics.acks import Ack
from topics.conversions import ConversionResult
from topics.events import DeliveryEvent, Retraction
from topics.record import EmailId, LogPosition, Millis, Record, RecordPart
from topics.requests import SendRequest
from topics.states import EmailState

Fact = SendRequest | Ack | DeliveryEvent | Retraction | ConversionResult
"""The records that the fold reads."""


class AppliedFact(RecordPart, frozen=True, kw_only=True):
    """A fact with its place on the log."""

    place: LogPosition
    fact: Fact


class EmailChange(Record, tag="email-change/1", frozen=True, kw_only=True):
    """One change of one email's state.

    The state may be partial, because the fold removes expired states (docs/explanation/state-retention.md): readers
    join it to the state they have. So a change that is published again changes nothing.
    """

    email_id: EmailId
    recorded_at: Millis
    facts: tuple[AppliedFact, ...]
    state: EmailState


class EncodedAppliedFact(msgspec.Struct, frozen=True, gc=False):
    """An :class:`AppliedFact` to encode, whose fact is encoded already."""

    place: tuple[str, int, int]
    fact: msgspec.Raw


class EncodedEmailChange(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="email-change/1"):
    """An :class:`EmailChange` to encode, whose parts are encoded already: the same JSON with less work."""

    email_id: EmailId
    recorded_at: Millis
    facts: tuple[EncodedAppliedFact, ...]
    state: msgspec.Raw


class Tick(Record, tag="tick/1", frozen=True, kw_only=True):
    """The time at which it was appended; records after it are later.

    A partition's time is the latest ``recorded_at`` up to an offset. It is on the log, so that reading the log again
    gives the same times. Without changes it stands still; the projector then appends a tick if a listing waits for
    this partition.
    """

    recorded_at: Millis
