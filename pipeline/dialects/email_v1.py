"""`GET /v1/Email/`: query parameters in, a question out; states in, its JSON out. Pure.

What is sent through it: :mod:`pipeline.dialects.email_v1_send`.

The document is silent here and there; what we read into it:

- `MessageId` is the email_id: the id that a send answered with, for Fast Track's emails, too.
- Texts that don't apply are ``""`` and `DeliveredDate` is 0, as in the document's example and as
  readers with fixed types expect; `Next` and `Error` are absent where there is none.
- `After` names a whole second and never the future; default: now. See :mod:`projections.history`.
- An email is not listed while it is only accepted or tried in vain: none of the four states is true of it yet.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from pipeline.errors import Refused
from topics.events import BounceClass
from topics.ids import brand_uuid, owner_uuid
from topics.readings import ListedState, effective_state, listed_state, sent_at, updated_at
from topics.record import Millis
from topics.requests import SendRequest
from topics.states import EmailState, EventDetail

# BounceType and BounceSubType, in the words of Amazon SES, which the document uses. The same fact has the same ones
# whether a server refused at once, a report came by mail, or a provider told it in words of its own.
_HARD: Final = ("Permanent", "General")
_SOFT: Final = ("Transient", "General")
_SUPPRESSED: Final = ("Permanent", "Suppressed")
_UNDETERMINED: Final = ("Undetermined", "General")
_BOUNCE_TYPES: Final = {BounceClass.HARD: _HARD, BounceClass.SOFT: _SOFT, None: _UNDETERMINED}
_LEADING_CODES: Final = re.compile(r"(?:smtp; ?)?(?:([245]\d\d)(?![\d.])[ -]?|([245]\.\d{1,3}\.\d{1,3})(?![\d.]) ?)")
_DETAIL_FIELDS: Final = ("To", "Type", "BrandId", "Token", "GroupId", "NumPhotos", "OrderId")
_MAX_TIMESTAMP_S: Final = 99_999_999_999
"""The year 5138; what lies beyond is a mistake (milliseconds?), not a time."""


class EmailV1ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A listing's parameters, understood."""

    brand: str = ""
    state: ListedState | None = None
    after: int | None = None
    next: str = ""
    email: str = ""


class EmailV1ListedEmail(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """One email of the listing, field by field as documented."""

    email: str
    type: str
    message_id: str
    sent_at: int
    last_updated: int
    state: ListedState
    brand_id: str
    owner_id: str
    msg_details: dict[str, msgspec.Raw]
    complaint_type: str = ""
    bounce_type: str = ""
    bounce_sub_type: str = ""
    bounce_details: str = ""
    delivered_date: int = 0


class EmailV1ListResponse(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """The answer."""

    emails: list[EmailV1ListedEmail]
    next: str = ""
    error: str = ""


_encode: Final = msgspec.json.Encoder().encode


def parse_query(params: Mapping[str, str]) -> EmailV1ListQuery:
    """What is asked. Unknown parameters are ignored, and with `Email` all others but `Next`. Raises Refused."""
    # A plus that nobody encoded arrives as a blank, which no address has.
    if email := params.get("Email", "").replace(" ", "+"):
        return EmailV1ListQuery(email=email, next=params.get("Next", ""))
    return EmailV1ListQuery(
        brand=params.get("BrandId", ""),
        state=_state(params.get("State", "")),
        after=_after(params.get("After", "")),
        next=params.get("Next", ""),
    )


def _state(value: str) -> ListedState | None:
    if not value:
        return None
    try:
        return ListedState(value)
    except ValueError:
        known = ", ".join(state.value for state in ListedState)
        raise Refused(f"State: must be one of {known}", "State") from None


def _after(value: str) -> int | None:
    if not value:
        return None
    # Ahead of int(): it takes signs, blanks, underscores and other scripts' digits, and any length.
    if not (value.isascii() and value.isdigit() and len(value) <= 20) or int(value) > _MAX_TIMESTAMP_S:
        raise Refused("After: must be a unix time in whole seconds", "After")
    return int(value)


def encode_list_response(tenant: str, states: Sequence[EmailState], behind: str = "") -> bytes:
    """The answer's JSON. States without a request are nobody's and can't be listed."""
    shown = (listed_email(tenant, state, state.request) for state in states if state.request is not None)
    return _encode(EmailV1ListResponse(emails=[email for email in shown if email is not None], next=behind))


def encode_error(message: str) -> bytes:
    """An error's JSON."""
    return msgspec.json.encode({"Error": message})


def listed_email(tenant: str, state: EmailState, request: SendRequest) -> EmailV1ListedEmail | None:
    """Return one email; None while nobody took custody of it and nothing ended it."""
    state = effective_state(state)
    listed = listed_state(state)
    if listed is None:
        return None
    kind, subkind, details = _bounce(state)
    return EmailV1ListedEmail(
        email=request.recipient,
        type=request.kind,
        message_id=state.email_id,
        sent_at=_seconds(sent_at(state) or 0),
        last_updated=_seconds(updated_at(state)),
        state=listed,
        brand_id=brand_uuid(tenant, request.brand),
        owner_id=owner_uuid(tenant),
        msg_details=_msg_details(tenant, request),
        complaint_type="" if state.complaint is None else state.complaint.type,
        bounce_type=kind,
        bounce_sub_type=subkind,
        bounce_details=details,
        delivered_date=0 if state.delivered is None else _seconds(state.delivered.first),
    )


def _bounce(state: EmailState) -> tuple[str, str, str]:
    """Return type, subtype, details."""
    if state.bounce is not None:
        return *_BOUNCE_TYPES[state.bounce.bounce_class], _reason(state.bounce)
    if state.bounced is not None:
        # Its words went with another bounce's, which was read wrong.
        return *_UNDETERMINED, ""
    if state.failed is not None:
        return *_UNDETERMINED, _reason(state.failure)
    if state.dropped is not None:
        return *_SUPPRESSED, _reason(state.drop)
    return "", "", ""


def _raw(detail: EventDetail) -> str:
    """Return code, enhanced code and text, each code once: texts begin with their codes, or with one, or with none."""
    code, enhanced, text = str(detail.code or ""), detail.enhanced, detail.text.strip()
    while (found := _LEADING_CODES.match(text)) and (found[1] or found[2]) in (code, enhanced):
        text = text[found.end() :].lstrip()
    return " ".join(word for word in (code, enhanced, text) if word)


def _reason(detail: EventDetail | None) -> str:
    """Return a server's words; else the reason of a drop or failure of ours, or what the provider calls it."""
    return "" if detail is None else _raw(detail) or f"{detail.type} {detail.subtype}".strip()


def _msg_details(tenant: str, request: SendRequest) -> dict[str, msgspec.Raw]:
    """What the caller said, verbatim; what every email has, filled in."""
    own = {
        "To": request.recipient,
        "Type": request.kind,
        "BrandId": brand_uuid(tenant, request.brand),
    }
    found = {name: msgspec.Raw(_encode(value)) for name, value in own.items()}
    # Another dialect's email has none, or details of its own kind.
    with contextlib.suppress(msgspec.ValidationError):
        found |= msgspec.json.decode(request.details, type=dict[str, msgspec.Raw])
    return {name: found[name] for name in _DETAIL_FIELDS if name in found}


def _seconds(at: Millis) -> int:
    return at // 1000
