"""`email-changes`: the facts just applied and the state after them, and what time it was; what projections read.

Versions are numbered by the projection, in log order: a number inside the state would break the
join, and one made by the fold would differ after a crash between two batches.
"""

import msgspec

from topics.acks import Ack
from topics.conversions import ConversionResult
from topics.events import DeliveryEvent, Retraction
from topics.record import EmailId, LogPosition, Millis, Record, RecordPart
from topics.requests import SendRequest
from topics.states import EmailState

Fact = SendRequest | Ack | DeliveryEvent | Retraction | ConversionResult
"""What the fold folds."""


class AppliedFact(RecordPart, frozen=True, kw_only=True):
    """A fact and where it lies."""

    place: LogPosition
    fact: Fact


class EmailChange(Record, tag="email-change/1", frozen=True, kw_only=True):
    """One step of one email. Published again, it changes nothing: the projection joins states.

    It has to: the state is what the fold still knew, and it forgets quiet ones
    (docs/explanation/state-retention.md).
    """

    email_id: EmailId
    recorded_at: Millis
    facts: tuple[AppliedFact, ...]
    state: EmailState


class EncodedAppliedFact(msgspec.Struct, frozen=True, gc=False):
    """An :class:`Applied` on its way to the log, of bytes that lie there already."""

    place: tuple[str, int, int]
    fact: msgspec.Raw


class EncodedEmailChange(msgspec.Struct, frozen=True, gc=False, tag_field="type", tag="email-change/1"):
    """An :class:`EmailChange` on its way to the log, of bytes that are at hand: the same JSON for less."""

    email_id: EmailId
    recorded_at: Millis
    facts: tuple[EncodedAppliedFact, ...]
    state: msgspec.Raw


class Tick(Record, tag="tick/1", frozen=True, kw_only=True):
    """It was so late when this was appended, and what lies behind it is later.

    A partition's time is the latest ``recorded_at`` up to an offset: it lies on the log, so that a
    listing's point in time means the same to everybody who reads the log again. Without a change
    it stands still; the projector then says what time it is, wherever a listing waits for it.
    """

    recorded_at: Millis
