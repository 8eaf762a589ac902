"""Computes what emails are filtered by, from their requests and states. Pure; the sink writes it into columns.

A request's part is written once, when the request is first known, and never changes. A state's part belongs to each
version. Texts that callers choose are shortened as ids are, because every index must be able to hold them.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import msgspec

from projections.text import storable_text
from topics.events import BounceClass
from topics.ids import brand_uuid, short_id
from topics.readings import EmailStatus, effective_state, email_status
from topics.requests import SendRequest
from topics.states import EmailState, EventDetail

NormalizeAddress = Callable[[str], str]
"""A function that returns the one spelling of an address by which it is found."""

SUPPRESSED_PREFIX: Final = "suppressed: "
"""Prefix of the dispatcher's reason for a drop; the suppression's own reason follows."""


class EmailFact(StrEnum):
    """A kind of fact that counts for an email: the names of the state's marks."""

    ACCEPTED = "accepted"
    QUEUED = "queued"
    SENT = "sent"
    DEFERRED = "deferred"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    OPENED = "opened"
    OPENED_MACHINE = "opened_machine"
    CLICKED = "clicked"
    CLICKED_MACHINE = "clicked_machine"
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    DROPPED = "dropped"
    FAILED = "failed"
    UNSUBSCRIBED = "unsubscribed"
    REPLIED = "replied"
    UNKNOWN = "unknown"


_BITS: Final = {fact: 1 << nth for nth, fact in enumerate(EmailFact)}
"""The bit of each fact. They are stored: new facts are added at the end."""


class RequestFacets(msgspec.Struct, frozen=True, kw_only=True):
    """What an email is filtered by that its request says; None where it says nothing."""

    tenant: str
    dialect: str
    brand_uuid: str
    message_id: str
    recipient: str
    """In one spelling."""
    recipient_domain: str
    template: str | None = None
    activity_id: str | None = None
    action_group_id: str | None = None
    action_id: str | None = None
    trigger_hash: str | None = None
    user_id: str | None = None


class StateFacets(msgspec.Struct, frozen=True, kw_only=True):
    """What an email is filtered by that follows from its state."""

    status: EmailStatus
    facts: int
    """The bits of the kinds of facts that count."""
    provider: str | None = None
    """The provider that took the email, or refused it."""
    bounce_class: str | None = None
    bounce_code: str | None = None
    """The enhanced status code, such as ``5.1.1``; without one the reply code, such as ``550``."""
    suppressed_reason: str | None = None
    """Why the email was dropped without being sent."""


class _ActivityFields(msgspec.Struct, frozen=True):
    """Fast Track's fields by which emails are found, as they were sent."""

    activity_id: msgspec.Raw = msgspec.Raw(b"null")
    action_group_id: msgspec.Raw = msgspec.Raw(b"null")
    action_id: msgspec.Raw = msgspec.Raw(b"null")
    trigger_hash: msgspec.Raw = msgspec.Raw(b"null")
    user_id: msgspec.Raw = msgspec.Raw(b"null")


_NO_ACTIVITY: Final = _ActivityFields()
_DECODE_ACTIVITY: Final = msgspec.json.Decoder(_ActivityFields).decode
_DECODE_TEXT: Final = msgspec.json.Decoder(str).decode


def facet_text(value: str) -> str:
    """Return a text as it is stored and compared: storable, and hashed if it is long."""
    return short_id(storable_text(value))


def fact_bit(fact: EmailFact) -> int:
    """Return the bit of a kind of fact in :attr:`StateFacets.facts`."""
    return _BITS[fact]


def lower_case_address(address: str) -> str:
    """Return an address in lower case, for callers that have no better spelling."""
    return address.strip().lower()


def request_facets(request: SendRequest, normalize_address: NormalizeAddress) -> RequestFacets:
    """Return what an email with this request is filtered by."""
    recipient = normalize_address(request.recipient)
    activity = _activity_fields(request.activity)
    return RequestFacets(
        tenant=request.tenant,
        dialect=request.dialect,
        brand_uuid=brand_uuid(request.tenant, request.brand),
        message_id=facet_text(request.message_id),
        recipient=facet_text(recipient),
        recipient_domain=facet_text(recipient.rpartition("@")[2]),
        template=None if request.template is None else facet_text(request.template.id),
        activity_id=_scalar_text(activity.activity_id),
        action_group_id=_scalar_text(activity.action_group_id),
        action_id=_scalar_text(activity.action_id),
        trigger_hash=_scalar_text(activity.trigger_hash),
        user_id=_scalar_text(activity.user_id),
    )


def state_facets(state: EmailState) -> StateFacets:
    """Return what an email in this state is filtered by."""
    counted = effective_state(state)
    facts = sum(bit for fact, bit in _BITS.items() if getattr(counted, fact.value) is not None)
    refusal = counted.bounce or counted.failure
    bounce_class = bounce_class_of(counted)
    return StateFacets(
        status=email_status(state),
        facts=facts,
        provider=provider_of(counted),
        bounce_class=None if bounce_class is None else bounce_class.value,
        bounce_code=None if refusal is None else _code(refusal),
        suppressed_reason=None if counted.drop is None else _reason(counted.drop),
    )


def bounce_class_of(state: EmailState) -> BounceClass | None:
    """Return the class under which an email is filtered and counted; None unless it bounced. In doubt it is soft.

    ``state``: with the facts that count alone.
    """
    if state.bounced is None:
        return None
    return (state.bounce and state.bounce.bounce_class) or BounceClass.SOFT


def provider_of(state: EmailState) -> str | None:
    """Return the provider that took the email; without one, the provider that refused it.

    ``state``: with the facts that count alone.
    """
    if state.provider_ids:
        return facet_text(state.provider_ids[0][0])
    details = (state.bounce, state.drop, state.failure, state.complaint)
    return next((facet_text(detail.provider) for detail in details if detail is not None and detail.provider), None)


def _code(refusal: EventDetail) -> str | None:
    return facet_text(refusal.enhanced) or (str(refusal.code) if refusal.code else None)


def _reason(drop: EventDetail) -> str:
    return facet_text((drop.type or drop.subtype or drop.text or "unknown").removeprefix(SUPPRESSED_PREFIX))


def _activity_fields(activity: msgspec.Raw) -> _ActivityFields:
    try:
        return _DECODE_ACTIVITY(activity)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _NO_ACTIVITY


def _scalar_text(raw: msgspec.Raw) -> str | None:
    """Return a JSON string's or number's text; None for null, objects and arrays. A number keeps all its digits."""
    text = bytes(raw).strip()
    if text[:1] == b'"':
        try:
            return facet_text(_DECODE_TEXT(text))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
    return None if not text or text[:1] in b"{[" or text == b"null" else facet_text(text.decode("ascii", "replace"))


def facet_columns(facets: msgspec.Struct) -> dict[str, Any]:
    """Return facets as the values of columns."""
    return msgspec.structs.asdict(facets)
