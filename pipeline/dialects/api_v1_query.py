"""Parse the questions of the history API `/api/v1`: filters, order, moment, fields. Pure.

Each filter is described once, in :data:`FILTERS`: the parser, OpenAPI and the reference are made from it. A parameter
that is not known is refused, because a filter with a spelling mistake would select everything.
"""

import datetime as dt
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec

from pipeline.dialects.api_v1 import EMAIL_FIELDS, rfc3339
from pipeline.errors import Refused
from projections.email_cursor import EmailQuestion
from projections.email_facets import EmailFact, NormalizeAddress
from projections.email_listing import PAGE_MAX_EMAILS, EmailFilter, EmailOrder, OpenedBy
from topics.events import BounceClass
from topics.ids import brand_uuid
from topics.readings import EmailStatus
from topics.record import Millis

VALUE_MAX_CHARS: Final = 500
MAX_FIELDS: Final = 50
_DAY_CHARS: Final = len("2026-11-27")
_MAX_MILLIS_DIGITS: Final = 15
Choice = TypeVar("Choice", bound=enum.StrEnum)
Parameters = Iterable[tuple[str, str]]
"""Names and values as they were sent; a name may be repeated."""


class FilterParameter(NamedTuple):
    """One filter of the API."""

    meaning: str
    parse: Callable[[str, str], Any]
    """A function of the parameter's name and text that returns the value. Raises Refused."""
    example: str
    choices: tuple[str, ...] = ()
    is_list: bool = False
    """Whether it may be sent several times."""


def _text(name: str, value: str) -> str:
    if not value or len(value) > VALUE_MAX_CHARS:
        raise Refused(f"must have 1 to {VALUE_MAX_CHARS} characters", name)
    return value


def _choice(kind: type[Choice]) -> Callable[[str, str], Choice]:
    def parse(name: str, value: str) -> Choice:
        try:
            return kind(value)
        except ValueError:
            raise Refused(f"must be one of {', '.join(kind)}", name) from None

    return parse


def parse_time(name: str, value: str) -> Millis:
    """Return a time in RFC 3339, or in milliseconds since 1970, as milliseconds. Raise Refused."""
    if value.isascii() and value.isdigit() and len(value) <= _MAX_MILLIS_DIGITS:
        return int(value)
    try:
        # A plus sign that was not percent-encoded arrives as a space.
        text = value.strip().replace(" ", "+") if "T" in value else value.strip()
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise Refused("must be a time such as 2026-11-27T09:30:00Z, or milliseconds since 1970", name) from None
    if moment.tzinfo is None:
        if len(text) > _DAY_CHARS:
            raise Refused("must say its time zone, such as Z or +01:00", name)
        moment = moment.replace(tzinfo=dt.UTC)
    return (moment - dt.datetime.fromtimestamp(0, dt.UTC)) // dt.timedelta(milliseconds=1)


def _choices(kind: type[enum.StrEnum]) -> tuple[str, ...]:
    return tuple(each.value for each in kind)


_OF_ACTIVITY: Final = "Emails whose `activity` has this `{}`, exactly as it was sent."
_TIME_EXAMPLE: Final = "2026-11-01T00:00:00Z"

FILTERS: Final[dict[str, FilterParameter]] = {
    "brand": FilterParameter("Emails of this brand: its name, or its UUID.", _text, "12"),
    "status": FilterParameter(
        "Emails in this status; sent several times, in any of them.",
        _choice(EmailStatus),
        "bounced",
        _choices(EmailStatus),
        is_list=True,
    ),
    "fact": FilterParameter(
        "Emails for which this kind of fact counts, whatever came later: an email that was opened was delivered, too, "
        "if that was reported. Sent several times, all of them.",
        _choice(EmailFact),
        "delivered",
        _choices(EmailFact),
        is_list=True,
    ),
    "without": FilterParameter(
        "Emails for which this kind of fact does not count; sent several times, none of them.",
        _choice(EmailFact),
        "clicked",
        _choices(EmailFact),
        is_list=True,
    ),
    "opened_by": FilterParameter(
        "Emails that a human opened, that a machine opened, or that nobody opened.",
        _choice(OpenedBy),
        "human",
        _choices(OpenedBy),
    ),
    "accepted_from": FilterParameter("Accepted at this time or later.", parse_time, _TIME_EXAMPLE),
    "accepted_to": FilterParameter("Accepted before this time.", parse_time, _TIME_EXAMPLE),
    "sent_from": FilterParameter("Sent at this time or later, by the provider's clock.", parse_time, _TIME_EXAMPLE),
    "sent_to": FilterParameter("Sent before this time.", parse_time, _TIME_EXAMPLE),
    "updated_from": FilterParameter(
        "Whose version of the moment is valid since this time or later.", parse_time, _TIME_EXAMPLE
    ),
    "updated_to": FilterParameter("Whose version is valid since before this time.", parse_time, _TIME_EXAMPLE),
    "dialect": FilterParameter(
        "Accepted by this API: fasttrack, email_v1, extrahorizon, freshmail.", _text, "fasttrack"
    ),
    "provider": FilterParameter("Taken or refused by this provider.", _text, "sendgrid"),
    "template": FilterParameter("Made from the template with this id.", _text, "7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02"),
    "message_id": FilterParameter(
        "All recipients' emails of this message.", _text, "0e5a0f0c-9f5b-5c0e-8d1a-3a52b1e1a001"
    ),
    "identity": FilterParameter(
        "The caller's own id, such as `activity.id`.", _text, "5f0c2b1e-9a43-4f62-8a53-1c9e3f1f7b11"
    ),
    "recipient": FilterParameter(
        "To exactly this address, in any spelling of its case. Needs the scope `history:addresses`. URLs are logged by "
        "proxies: rather send it to `POST /api/v1/emails/lookup`.",
        _text,
        "anna@example.com",
    ),
    "recipient_domain": FilterParameter("To addresses of exactly this domain.", _text, "example.com"),
    "activity_id": FilterParameter(_OF_ACTIVITY.format("activity_id"), _text, "31337"),
    "action_group_id": FilterParameter(_OF_ACTIVITY.format("action_group_id"), _text, "205"),
    "action_id": FilterParameter(_OF_ACTIVITY.format("action_id"), _text, "8"),
    "trigger_hash": FilterParameter(_OF_ACTIVITY.format("trigger_hash"), _text, "b1946ac92492d2347c6235b4d2611184"),
    "user_id": FilterParameter(_OF_ACTIVITY.format("user_id"), _text, "987654"),
    "bounce_class": FilterParameter("Bounced so.", _choice(BounceClass), "hard", _choices(BounceClass)),
    "bounce_code": FilterParameter(
        "Refused with this enhanced status code; with this reply code, where there was no enhanced one.",
        _text,
        "5.1.1",
    ),
    "suppressed_reason": FilterParameter("Dropped for this reason.", _text, "hard bounce"),
}
"""Every filter, by its name in the API."""

_FIELD_OF_FILTER: Final = {"brand": "brand_uuid", "status": "statuses", "fact": "facts"}
_FILTER_OF_FIELD: Final = {field: name for name, field in _FIELD_OF_FILTER.items()}
DIRECTIONS: Final = {"desc": True, "asc": False}
COUNTS: Final = ("estimate", "exact")


class ListingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed request for a page."""

    question: EmailQuestion
    cursor: str = ""
    count: str = ""
    """`estimate`, `exact` or empty."""


def parse_listing(tenant: str, parameters: Parameters, normalize_address: NormalizeAddress) -> ListingRequest:
    """Return the request of these parameters. Raise Refused for an unknown, repeated or invalid one."""
    filters: list[tuple[str, str]] = []
    others: dict[str, str] = {}
    for name, value in parameters:
        if name in FILTERS:
            filters.append((name, value))
        elif name not in _OTHERS:
            raise Refused("no such parameter", name)
        elif name in others:
            raise Refused("sent more than once", name)
        else:
            others[name] = value
    question = EmailQuestion(
        filter=parse_filter(tenant, filters, normalize_address),
        **{
            _FIELD_OF_OTHER.get(name, name): parse(name, others[name])
            for name, parse in _OTHERS.items()
            if name in others and name not in {"cursor", "count"}
        },
    )
    count = others.get("count", "")
    if count and count not in COUNTS:
        raise Refused(f"must be one of {', '.join(COUNTS)}", "count")
    return ListingRequest(question=question, cursor=others.get("cursor", ""), count=count)


def parse_filter(tenant: str, parameters: Parameters, normalize_address: NormalizeAddress) -> EmailFilter:
    """Return the filter of these parameters. Raise Refused."""
    values: dict[str, Any] = {}
    for name, text in parameters:
        if name not in FILTERS:
            raise Refused("no such filter", name)
        value = FILTERS[name].parse(name, text)
        field = _FIELD_OF_FILTER.get(name, name)
        if FILTERS[name].is_list:
            values[field] = (*values.get(field, ()), value)
        elif field in values:
            raise Refused("sent more than once", name)
        else:
            values[field] = value
    return EmailFilter(**_normalized(tenant, values, normalize_address))


def _normalized(tenant: str, values: dict[str, Any], normalize_address: NormalizeAddress) -> dict[str, Any]:
    """Return the values as the tables have them; lists in one order, so that a cursor fits the same question."""
    for name in ("statuses", "facts", "without"):
        if name in values:
            values[name] = tuple(sorted(set(values[name])))
    if "brand_uuid" in values:
        values["brand_uuid"] = brand_uuid(tenant, values["brand_uuid"])
    if "recipient" in values:
        # A plus sign that was not percent-encoded arrives as a space, which no address has.
        values["recipient"] = normalize_address(values["recipient"].strip().replace(" ", "+"))
    if "recipient_domain" in values:
        values["recipient_domain"] = normalize_address(f"x@{values['recipient_domain']}").rpartition("@")[2]
    return values


def _limit(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= len(str(PAGE_MAX_EMAILS))) or not (
        1 <= int(value) <= PAGE_MAX_EMAILS
    ):
        raise Refused(f"must be a number from 1 to {PAGE_MAX_EMAILS}", name)
    return int(value)


def _direction(name: str, value: str) -> bool:
    if value not in DIRECTIONS:
        raise Refused(f"must be one of {', '.join(DIRECTIONS)}", name)
    return DIRECTIONS[value]


def _fields(name: str, value: str) -> tuple[str, ...]:
    fields = tuple(filter(None, (field.strip() for field in value.split(","))))
    if len(fields) > MAX_FIELDS:
        raise Refused(f"more than {MAX_FIELDS}", name)
    for field in fields:
        if field.partition(".")[0] not in EMAIL_FIELDS:
            raise Refused(f"no such field; there are {', '.join(EMAIL_FIELDS)}", name)
    return fields


_OTHERS: Final[dict[str, Callable[[str, str], Any]]] = {
    "order": _choice(EmailOrder),
    "direction": _direction,
    "limit": _limit,
    "as_of": parse_time,
    "fields": _fields,
    "cursor": _text,
    "count": _text,
}
_FIELD_OF_OTHER: Final = {"direction": "descending"}


def emails_url(email_filter: EmailFilter, as_of: Millis) -> str:
    """Return the path and query of `GET /api/v1/emails` for these emails; it contains no address.

    A filter by an address cannot be part of a URL: raise ValueError.
    """
    if email_filter.recipient is not None:
        raise ValueError("an address does not belong into a URL")
    parameters: list[tuple[str, str]] = []
    for field in email_filter.__struct_fields__:
        value = getattr(email_filter, field)
        name = _FILTER_OF_FIELD.get(field, field)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        parameters += [(name, rfc3339(each) if isinstance(each, int) else str(each)) for each in values]
    return "/api/v1/emails?" + urlencode([*parameters, ("as_of", rfc3339(as_of))])


def parameters_of_body(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a JSON object's members as parameters: numbers as texts, each item of a list by itself. Raise Refused."""
    parameters = []
    for name, value in body.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bool) or not isinstance(item, str | int):
                raise Refused("must be a text, a number or a list of them", name)
            parameters.append((name, str(item)))
    return parameters
