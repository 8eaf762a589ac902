"""Debts: a state and the words already booked in, the conversions newly owed out. Pure.

The sink books each debt as a job of the queue ``emit``; the emitter pays it. A word is owed once
per email: what is booked keeps its number for ever, whatever the state says later.
"""

from collections.abc import Collection
from typing import Final

import msgspec

from topics.conversions import ConversionOutcome, ConversionWord
from topics.readings import owed_words
from topics.record import EmailId
from topics.states import EmailState

EMIT_QUEUE: Final = "emit"
FASTTRACK_DIALECT: Final = "fasttrack"
"""Only Fast Track takes conversions; the other dialects' callers ask."""

JOB_STATE_BY_OUTCOME: Final = {
    ConversionOutcome.DELIVERED: "done",
    ConversionOutcome.REFUSED: "done",
    ConversionOutcome.GIVEN_UP: "dead",
}
"""What a settlement makes of the job. The other outcomes leave the debt standing."""


class PendingConversion(msgspec.Struct, frozen=True, kw_only=True):
    """What is told Fast Track: one word of one email, with the caller's activity byte for byte."""

    email_id: EmailId
    word: ConversionWord
    tenant: str
    brand: str
    activity: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def lane(self) -> str:
        """What is paused, broken or slow together."""
        return lane_of(self.tenant, self.brand)


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(PendingConversion)


def encode_conversion(debt: PendingConversion) -> bytes:
    """A debt as the payload of its job."""
    return _ENCODER.encode(debt)


def decode_conversion(payload: bytes) -> PendingConversion:
    """The debt that a job carries."""
    return _DECODER.decode(payload)


def lane_of(tenant: str, brand: str) -> str:
    """The lane of a tenant's brand. A tenant's name has no slash, so no two brands share a lane."""
    return f"{tenant}/{brand}"


def new_conversions(state: EmailState, known: Collection[str]) -> tuple[PendingConversion, ...]:
    """The words that ``state`` owes and nobody booked yet, in the order in which they are told."""
    request = state.request
    if request is None or request.dialect != FASTTRACK_DIALECT:
        return ()
    return tuple(
        PendingConversion(
            email_id=state.email_id,
            word=word,
            tenant=request.tenant,
            brand=request.brand,
            activity=request.activity,
        )
        for word in owed_words(state)
        if word not in known
    )


def ended_conversions(state: EmailState) -> dict[ConversionWord, str]:
    """The words whose debt has ended, and the job state that is its end."""
    return {
        word: JOB_STATE_BY_OUTCOME[told.outcome]
        for word, told in state.settled.items()
        if told.outcome in JOB_STATE_BY_OUTCOME
    }
