"""Encode emails, timelines and changes as the history API `/api/v1` shows them. Pure.

The routes of `/api/v1`, exports and the console call it; :mod:`pipeline.dialects.api_v1_query` parses its questions.
Times are RFC 3339 in UTC with milliseconds.
"""

import datetime as dt
import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from pipeline.dialects.masking import mask_address, mask_value
from projections.email_facets import state_facets
from projections.email_listing import ChangeRow, EmailRow
from projections.listing_query import FieldSelection, field_selection, selected_fields
from projections.row_changes import fact_event_id, fact_kind, fact_occurred_at
from projections.timeline import TimelineFact
from topics.changes import Fact
from topics.ids import brand_uuid
from topics.join import MARKS
from topics.readings import (
    EmailStatus,
    count_events,
    effective_state,
    email_status,
    owed_words,
    sent_at,
    updated_at,
)
from topics.record import Millis
from topics.requests import SendRequest
from topics.states import EmailState, EventDetail

_MAX_MILLIS: Final = 253_402_300_799_999
"""The end of the year 9999, the last one that RFC 3339 can write."""
_SHOWN_FACT_FIELDS: Final = frozenset(
    {
        *(
            "message_id",
            "dialect",
            "brand",
            "identity",
            "recipient",
            "sender",
            "subject",
            "kind",
            "template",
            "activity",
        ),
        *(
            "provider",
            "attempt",
            "code",
            "enhanced",
            "text",
            "provider_message_id",
            "means_delivered",
            "next_attempt_at",
        ),
        *("reason", "machine", "bounce_class", "bounce_type", "bounce_subtype", "url", "user_agent", "corrects"),
        *("word", "outcome", "destination", "status", "detail"),
    }
)
"""Fields of facts that `details` has. Never a request's variables, content, other recipients or its dialect's own data:
they have names and addresses in any form, and the mail itself."""
_FACT_FIELDS_WITH_ADDRESSES: Final = frozenset({"recipient_name", "native"})
"""Those that only keys with addresses see, too: names can't be found in them."""

_Time = Annotated[str, Meta(description="RFC 3339, UTC, milliseconds")]
_MaybeTime = Annotated[str | None, Meta(description="RFC 3339, UTC, milliseconds; null while it has not happened")]


class FactView(msgspec.Struct, frozen=True, kw_only=True):
    """The times and the number of one kind of fact."""

    first: _Time
    last: _Time
    count: Annotated[int, Meta(description="Distinct facts")]
    count_is_exact: Annotated[bool, Meta(description="False if there may be more; the timeline has all")]


class DetailView(msgspec.Struct, frozen=True, kw_only=True):
    """A bounce, complaint, drop or failure."""

    at: _Time
    event_id: str
    type: str
    subtype: str
    code: Annotated[int, Meta(description="The reply code; 0 if there was none")]
    enhanced: Annotated[str, Meta(description="The enhanced status code, such as 5.1.1")]
    text: str
    provider: str
    bounce_class: Annotated[str | None, Meta(description="`hard` or `soft`; null for anything but a bounce")]


class SettlementView(msgspec.Struct, frozen=True, kw_only=True):
    """The final outcome of a conversion."""

    outcome: str
    at: _Time


class ProviderIdView(msgspec.Struct, frozen=True, kw_only=True):
    """A provider and its id of the email."""

    provider: str
    id: str


class EmailView(msgspec.Struct, frozen=True, kw_only=True):
    """An email as it was at a moment."""

    email_id: str
    message_id: Annotated[str, Meta(description="The same for all recipients of a message")]
    dialect: Annotated[str, Meta(description="The API that accepted it")]
    brand: str
    brand_id: Annotated[str, Meta(description="The brand's UUID, as in /v1/Email/")]
    identity: Annotated[str, Meta(description="The caller's id, such as `activity.id`; empty if it gave none")]
    recipient: Annotated[str, Meta(description="Masked without the scope `history:addresses`")]
    recipient_name: str
    sender: str
    subject: str
    kind: str
    template: Annotated[str | None, Meta(description="The template's id")]
    template_version: int | None
    activity: Annotated[Any, Meta(description="The caller's own data, unchanged; null if it gave none")]
    status: EmailStatus
    provider: Annotated[str | None, Meta(description="The provider that took it, or refused it")]
    provider_ids: list[ProviderIdView]
    accepted_at: _MaybeTime
    sent_at: _MaybeTime
    updated_at: _Time
    suppressed_reason: Annotated[str | None, Meta(description="Why it was dropped without being sent")]
    facts: Annotated[dict[str, FactView], Meta(description="Each kind of fact that counts, by name")]
    bounce: DetailView | None
    complaint: DetailView | None
    drop: DetailView | None
    failure: DetailView | None
    owed: Annotated[list[str], Meta(description="Conversions that are or were owed")]
    conversions: Annotated[dict[str, SettlementView], Meta(description="Final outcomes of conversions, by word")]
    version: Annotated[int, Meta(description="Number of this version, from 1")]
    valid_from: Annotated[str, Meta(description="Since when this version is valid, by the log's time")]


class EmailListResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A page of emails."""

    as_of: Annotated[str, Meta(description="The moment that all pages of this listing show")]
    emails: Annotated[list[EmailView], Meta(description="With `fields`, each has only those, and its email_id")]
    next: Annotated[str, Meta(description="`cursor` of the next page; missing on the last one")] = ""
    count: Annotated[int | None, Meta(description="With `count`: emails that match")] = None
    count_kind: Annotated[str, Meta(description="`exact`, or `at_least` for an estimate over 10,000")] = ""


class EmailResponse(msgspec.Struct, frozen=True, kw_only=True):
    """One email at a moment."""

    as_of: _Time
    email: EmailView


class TimelineEntryView(msgspec.Struct, frozen=True, kw_only=True):
    """A fact about an email."""

    kind: Annotated[str, Meta(description="`accepted`, `acked`, `deferred`, `delivered`, `conversion` and others")]
    event_id: str
    occurred_at: Annotated[str, Meta(description="By the source's clock")]
    recorded_at: Annotated[str, Meta(description="By our clock")]
    places: Annotated[list[str], Meta(description="Where it lies on the log: topic/partition/offset, 100 at most")]
    duplicates: Annotated[int, Meta(description="How often it was repeated, as far as its places are kept")]
    details: Annotated[Any, Meta(description="The fact's own fields: attempt, code, text, url, word, …")]


class TimelineResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about an email in causal order."""

    as_of: _Time
    email_id: str
    timeline: list[TimelineEntryView]
    truncated: Annotated[bool, Meta(description="True if there are more facts than one answer shows")] = False


class VersionsResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The versions of an email, oldest first."""

    as_of: _Time
    email_id: str
    versions: list[EmailView]
    next_version: Annotated[int | None, Meta(description="`after_version` of the next page; missing on the last")] = (
        None
    )


class ChangesResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Versions in the order in which they became valid."""

    changes: list[EmailView]
    next: Annotated[str, Meta(description="`since` of the next request; keep it only when you have the changes")]
    as_of: Annotated[str, Meta(description="Up to when the feed is complete so far")]
    more: Annotated[bool, Meta(description="True if more changes are there already")]


OPENAPI_TYPES: Final = (EmailListResponse, EmailResponse, TimelineResponse, VersionsResponse, ChangesResponse)
EMAIL_FIELDS: Final = tuple(field.encode_name for field in msgspec.structs.fields(EmailView))


def rfc3339(at: Millis) -> str:
    """Return a time as RFC 3339 in UTC with milliseconds; times that it can't write become the nearest it can."""
    limited = max(0, min(at, _MAX_MILLIS))
    moment = dt.datetime.fromtimestamp(limited // 1000, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{limited % 1000:03d}Z"


def email_view(row: EmailRow | ChangeRow, *, masks_addresses: bool) -> EmailView:
    """Return an email, with all addresses masked or in clear."""
    state = effective_state(row.state)
    version, valid_from = _version_of(row)
    facets = state_facets(row.state)
    view = EmailView(
        email_id=row.state.email_id,
        **_request_fields(state.request),
        status=email_status(row.state),
        provider=facets.provider,
        provider_ids=[ProviderIdView(provider=provider, id=id_) for provider, id_ in state.provider_ids],
        accepted_at=None if state.accepted is None else rfc3339(state.accepted.first),
        sent_at=_maybe_time(sent_at(row.state)),
        updated_at=rfc3339(updated_at(row.state)),
        suppressed_reason=facets.suppressed_reason,
        facts=_facts(row.state),
        bounce=_detail(state.bounce),
        complaint=_detail(state.complaint),
        drop=_detail(state.drop),
        failure=_detail(state.failure),
        owed=[word.value for word in owed_words(row.state)],
        conversions={
            word.value: SettlementView(outcome=end.outcome.value, at=rfc3339(end.at))
            for word, end in sorted(state.settled.items())
        },
        version=version,
        valid_from=rfc3339(valid_from),
    )
    return _masked(view) if masks_addresses else view


def select_fields(view: EmailView, fields: Sequence[str]) -> Any:
    """Return the email with the fields of these paths (``facts.opened``) and its id only; all of it without any."""
    if not fields:
        return view
    selection = field_selection(("email_id",), *(tuple(path.split(".")) for path in fields))
    return {name: _selected(getattr(view, name), selection[name]) for name in EMAIL_FIELDS if name in selection}


def _selected(value: Any, selection: FieldSelection | None) -> Any:
    if selection is None:
        return value
    plain = msgspec.json.decode(msgspec.json.encode(value))
    return _raw_json(selected_fields(plain, selection) if isinstance(plain, dict | list) else plain)


def timeline_entry_view(entry: TimelineFact, *, masks_addresses: bool) -> TimelineEntryView:
    """Return a fact, with all addresses masked or in clear."""
    fact = entry.fact
    shown = _SHOWN_FACT_FIELDS if masks_addresses else _SHOWN_FACT_FIELDS | _FACT_FIELDS_WITH_ADDRESSES
    details = {name: value for name, value in _fact_fields(fact).items() if name in shown}
    return TimelineEntryView(
        kind=fact_kind(fact),
        event_id=fact_event_id(fact),
        occurred_at=rfc3339(fact_occurred_at(fact)),
        recorded_at=rfc3339(fact.recorded_at),
        places=entry.places,
        duplicates=max(0, len(entry.places) - 1),
        details=_raw_json(mask_value(details) if masks_addresses else details),
    )


def _version_of(row: EmailRow | ChangeRow) -> tuple[int, Millis]:
    if isinstance(row, EmailRow):
        return row.version, row.valid_from
    return row.position.version, row.position.valid_from


def _request_fields(request: SendRequest | None) -> dict[str, Any]:
    if request is None:
        texts = ("message_id", "dialect", "brand", "brand_id", "identity", "recipient", "recipient_name", "sender")
        empty: dict[str, Any] = dict.fromkeys((*texts, "subject", "kind"), "")
        return empty | {"template": None, "template_version": None, "activity": None}
    return {
        "message_id": request.message_id,
        "dialect": request.dialect,
        "brand": request.brand,
        "brand_id": brand_uuid(request.tenant, request.brand),
        "identity": request.identity,
        "recipient": request.recipient,
        "recipient_name": request.recipient_name,
        "sender": "" if request.sender is None else request.sender.address,
        "subject": request.subject,
        "kind": request.kind,
        "template": None if request.template is None else request.template.id,
        "template_version": None if request.template is None else request.template.version,
        "activity": request.activity,
    }


def _facts(state: EmailState) -> dict[str, FactView]:
    counted = effective_state(state)
    views = {}
    for name in MARKS:
        mark = getattr(counted, name)
        if mark is not None:
            count, is_exact = count_events(state, name)
            views[name] = FactView(
                first=rfc3339(mark.first), last=rfc3339(mark.last), count=count, count_is_exact=is_exact
            )
    return views


def _detail(detail: EventDetail | None) -> DetailView | None:
    if detail is None:
        return None
    return DetailView(
        at=rfc3339(detail.at),
        event_id=detail.event_id,
        type=detail.type,
        subtype=detail.subtype,
        code=detail.code,
        enhanced=detail.enhanced,
        text=detail.text,
        provider=detail.provider,
        bounce_class=None if detail.bounce_class is None else detail.bounce_class.value,
    )


def _maybe_time(at: Millis | None) -> str | None:
    return None if at is None else rfc3339(at)


def _masked(view: EmailView) -> EmailView:
    """Return the email without addresses, also in the caller's own data and in servers' replies."""
    details = {
        name: None if (detail := getattr(view, name)) is None else _masked_detail(detail)
        for name in ("bounce", "complaint", "drop", "failure")
    }
    return msgspec.structs.replace(
        view,
        recipient=mask_address(view.recipient),
        recipient_name="",
        identity=mask_value(view.identity),
        subject=mask_value(view.subject),
        suppressed_reason=mask_value(view.suppressed_reason),
        activity=None if view.activity is None else _raw_json(mask_value(msgspec.json.decode(view.activity))),
        **details,
    )


def _masked_detail(detail: DetailView) -> DetailView:
    masked = {name: mask_value(getattr(detail, name)) for name in ("type", "subtype", "text")}
    return msgspec.structs.replace(detail, **masked)


def _fact_fields(fact: Fact) -> dict[str, Any]:
    """Return a fact's fields as its record has them; those with their default are left out."""
    return dict(msgspec.json.decode(msgspec.json.encode(fact)))


def _raw_json(value: Any) -> msgspec.Raw:
    """Return a JSON value encoded by the standard library, which writes integers of any length."""
    return msgspec.Raw(json.dumps(value, separators=(",", ":")).encode())
