"""Conversions that a state owes to Fast Track. Pure; the sink, the rebuild and the state expiry use it.

The sink writes each pending conversion as a job of the queue ``emit``, and the emitter sends it. A word is owed once
per email: its job keeps its number, whatever the state says later.
"""

from collections.abc import Collection
from typing import Final

import msgspec

from topics.conversions import ConversionOutcome, ConversionWord
from topics.readings import owed_words
from topics.record import EmailId
from topics.states import EmailState

FASTTRACK_DIALECT: Final = "fasttrack"
"""The only dialect whose caller receives conversions; callers of the others query the history."""

JOB_STATE_BY_OUTCOME: Final = {
    ConversionOutcome.DELIVERED: "done",
    ConversionOutcome.REFUSED: "done",
    ConversionOutcome.GIVEN_UP: "dead",
}
"""The job's final state by outcome. The other outcomes leave the conversion pending."""


class PendingConversion(msgspec.Struct, frozen=True, kw_only=True):
    """A conversion to send to Fast Track: one word of one email, with the caller's activity byte for byte."""

    email_id: EmailId
    word: ConversionWord
    tenant: str
    brand: str
    activity: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def lane(self) -> str:
        """Return the lane of the job: the brand's conversions are paused and slowed down together."""
        return lane_of(self.tenant, self.brand)


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(PendingConversion)


def encode_conversion(conversion: PendingConversion) -> bytes:
    """Return the conversion as the payload of its job."""
    return _ENCODER.encode(conversion)


def decode_conversion(payload: bytes) -> PendingConversion:
    """Return the conversion in a job's payload."""
    return _DECODER.decode(payload)


def lane_of(tenant: str, brand: str) -> str:
    """Return the lane of a tenant's brand. A tenant's name has no slash, so no two brands share a lane."""
    return f"{tenant}/{brand}"


def new_conversions(state: EmailState, known_words: Collection[str]) -> tuple[PendingConversion, ...]:
    """Return the conversions that ``state`` owes, without the known words, in the order in which they are sent."""
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
        if word not in known_words
    )


def ended_conversions(state: EmailState) -> dict[ConversionWord, str]:
    """Return the words whose conversion has ended, with the job's final state."""
    return {
        word: JOB_STATE_BY_OUTCOME[settlement.outcome]
        for word, settlement in state.settled.items()
        if settlement.outcome in JOB_STATE_BY_OUTCOME
    }
