"""Debts: a state and the words already booked in, the conversions newly owed out. Pure.

The sink books each debt as a job of the queue ``emit``; the emitter pays it. A word is owed once
per email: what is booked keeps its number for ever, whatever the state says later.
"""

from collections.abc import Collection
from typing import Final

import msgspec

from topics.conversions import Outcome, Word
from topics.readings import owed
from topics.record import EmailId
from topics.states import EmailState

QUEUE: Final = "emit"
DIALECT: Final = "fasttrack"
"""Only Fast Track takes conversions; the other dialects' callers ask."""

ENDS: Final = {Outcome.DELIVERED: "done", Outcome.REFUSED: "done", Outcome.GIVEN_UP: "dead"}
"""What a settlement makes of the job. The other outcomes leave the debt standing."""


class Debt(msgspec.Struct, frozen=True, kw_only=True):
    """What is told Fast Track: one word of one email, with the caller's activity byte for byte."""

    email_id: EmailId
    word: Word
    tenant: str
    brand: str
    activity: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def lane(self) -> str:
        """What is paused, broken or slow together."""
        return lane(self.tenant, self.brand)


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Debt)


def encode(debt: Debt) -> bytes:
    """A debt as the payload of its job."""
    return _ENCODER.encode(debt)


def decode(payload: bytes) -> Debt:
    """The debt that a job carries."""
    return _DECODER.decode(payload)


def lane(tenant: str, brand: str) -> str:
    """The lane of a tenant's brand. A tenant's name has no slash, so no two brands share a lane."""
    return f"{tenant}/{brand}"


def new_debts(state: EmailState, known: Collection[str]) -> tuple[Debt, ...]:
    """The words that ``state`` owes and nobody booked yet, in the order in which they are told."""
    request = state.request
    if request is None or request.dialect != DIALECT:
        return ()
    return tuple(
        Debt(
            email_id=state.email_id,
            word=word,
            tenant=request.tenant,
            brand=request.brand,
            activity=request.activity,
        )
        for word in owed(state)
        if word not in known
    )


def ended(state: EmailState) -> dict[Word, str]:
    """The words whose debt has ended, and the job state that is its end."""
    return {word: ENDS[told.outcome] for word, told in state.settled.items() if told.outcome in ENDS}
