"""Parse queries of the email API's `GET /v1/Email/` and encode its listings. Pure.

`pipeline.gateway.routes.email_v1` calls it; :mod:`pipeline.dialects.email_v1_send` is the other half of the API. Our
interpretation where the API's document is silent:

- `MessageId` is the email_id: the id in the answer to a send, for Fast Track's emails, too.
- Texts that don't apply are ``""`` and an unknown `DeliveredDate` is 0, as in the document's example and as
  clients with fixed types expect; `Next` and `Error` are left out where there is none.
- `After` is a whole second and never in the future; default: now. See :mod:`projections.history`.
- An email that is only accepted, or whose attempts have all failed so far, is not listed: none of the four states
  is true of it yet.
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from pipeline.dialects.masking import mask_address, mask_value
from pipeline.errors import Refused
from topics.events import BounceClass
from topics.ids import brand_uuid, owner_uuid
from topics.readings import ListedState, effective_state, listed_state, sent_at, updated_at
from topics.record import Millis
from topics.requests import SendRequest
from topics.states import EmailState, EventDetail

# BounceType and BounceSubType are Amazon SES's, as in the document. A bounce has the same ones whether a server refused
# at once, a report came by mail, or a provider sent an event.
_HARD: Final = ("Permanent", "General")
_SOFT: Final = ("Transient", "General")
_SUPPRESSED: Final = ("Permanent", "Suppressed")
_UNDETERMINED: Final = ("Undetermined", "General")
_BOUNCE_TYPES: Final = {BounceClass.HARD: _HARD, BounceClass.SOFT: _SOFT, None: _UNDETERMINED}
_LEADING_CODES: Final = re.compile(r"(?:smtp; ?)?(?:([245]\d\d)(?![\d.])[ -]?|([245]\.\d{1,3}\.\d{1,3})(?![\d.]) ?)")
_DETAIL_FIELDS: Final = ("To", "Type", "BrandId", "Token", "GroupId", "NumPhotos", "OrderId")
_MAX_TIMESTAMP_S: Final = 99_999_999_999
"""A time in the year 5138. Larger numbers are refused: they are probably milliseconds."""


class EmailV1ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parsed parameters of a listing."""

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
    """A page of a listing, or an error."""

    emails: list[EmailV1ListedEmail]
    next: str = ""
    error: str = ""


_encode: Final = msgspec.json.Encoder().encode


def parse_query(params: Mapping[str, str]) -> EmailV1ListQuery:
    """Return the query. Unknown parameters are ignored, and beside `Email` all but `Next`. Raise Refused."""
    # A plus sign that wasn't percent-encoded arrives as a space; no address contains a space.
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
        states = ", ".join(state.value for state in ListedState)
        raise Refused(f"State: must be one of {states}", "State") from None


def _after(value: str) -> int | None:
    if not value:
        return None
    # Checked before int(), which also accepts signs, spaces, underscores, digits of other scripts, and any length.
    if not (value.isascii() and value.isdigit() and len(value) <= 20) or int(value) > _MAX_TIMESTAMP_S:
        raise Refused("After: must be a unix time in whole seconds", "After")
    return int(value)


def encode_list_response(
    tenant: str, states: Sequence[EmailState], next_cursor: str = "", *, masks_addresses: bool = False
) -> bytes:
    """Return a page's JSON. States without a request are left out: they have neither tenant nor recipient."""
    emails = [listed_email(tenant, state, state.request) for state in states if state.request is not None]
    listed = [email for email in emails if email is not None]
    if masks_addresses:
        listed = list(map(_masked, listed))
    return _encode(EmailV1ListResponse(emails=listed, next=next_cursor))


def encode_error(message: str) -> bytes:
    """Return an error's JSON."""
    return msgspec.json.encode({"Error": message})


def listed_email(tenant: str, state: EmailState, request: SendRequest) -> EmailV1ListedEmail | None:
    """Return one email of a listing; None while it has none of the listed states."""
    state = effective_state(state)
    listed = listed_state(state)
    if listed is None:
        return None
    bounce_type, bounce_sub_type, bounce_details = _bounce(state)
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
        bounce_type=bounce_type,
        bounce_sub_type=bounce_sub_type,
        bounce_details=bounce_details,
        delivered_date=0 if state.delivered is None else _seconds(state.delivered.first),
    )


def _masked(email: EmailV1ListedEmail) -> EmailV1ListedEmail:
    """Return the email without addresses, also in the details, which are the caller's own, and in servers' replies."""
    details = {
        name: msgspec.Raw(_encode((mask_address if name == "To" else mask_value)(msgspec.json.decode(value))))
        for name, value in email.msg_details.items()
    }
    return msgspec.structs.replace(
        email,
        email=mask_address(email.email),
        msg_details=details,
        bounce_details=mask_value(email.bounce_details),
    )


def _bounce(state: EmailState) -> tuple[str, str, str]:
    """Return BounceType, BounceSubType and BounceDetails; empty for an email that didn't bounce."""
    if state.bounce is not None:
        return *_BOUNCE_TYPES[state.bounce.bounce_class], _reason(state.bounce)
    if state.bounced is not None:
        # The state keeps the details of one bounce event, and that one turned out not to be a bounce.
        return *_UNDETERMINED, ""
    if state.failed is not None:
        return *_UNDETERMINED, _reason(state.failure)
    if state.dropped is not None:
        return *_SUPPRESSED, _reason(state.drop)
    return "", "", ""


def _server_response(detail: EventDetail) -> str:
    """Return code, enhanced code and text, without the codes that the text repeats at its beginning."""
    code, enhanced, text = str(detail.code or ""), detail.enhanced, detail.text.strip()
    while (match := _LEADING_CODES.match(text)) and (match[1] or match[2]) in (code, enhanced):
        text = text[match.end() :].lstrip()
    return " ".join(word for word in (code, enhanced, text) if word)


def _reason(detail: EventDetail | None) -> str:
    """Return the server's response; else the event's type and subtype."""
    return "" if detail is None else _server_response(detail) or f"{detail.type} {detail.subtype}".strip()


def _msg_details(tenant: str, request: SendRequest) -> dict[str, msgspec.Raw]:
    """Return the details: the caller's, unchanged, and To, Type and BrandId where the caller gave none."""
    defaults = {
        "To": request.recipient,
        "Type": request.kind,
        "BrandId": brand_uuid(tenant, request.brand),
    }
    details = {name: msgspec.Raw(_encode(value)) for name, value in defaults.items()}
    # An email of another dialect has no details, or details that aren't an object.
    with contextlib.suppress(msgspec.ValidationError):
        details |= msgspec.json.decode(request.details, type=dict[str, msgspec.Raw])
    return {name: details[name] for name in _DETAIL_FIELDS if name in details}


def _seconds(at: Millis) -> int:
    return at // 1000
