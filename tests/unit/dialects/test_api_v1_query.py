"""Questions of the history API: parameters, times, links."""

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from pipeline.dialects.api_v1_query import (
    FILTERS,
    emails_url,
    parameters_of_body,
    parse_filter,
    parse_listing,
    parse_time,
)
from pipeline.errors import Refused
from pipeline.runtime.secrets.signing import canonical_address
from projections.email_facets import EmailFact
from projections.email_listing import EmailFilter, EmailOrder
from topics.ids import brand_uuid
from topics.readings import EmailStatus


def listing(*parameters: tuple[str, str]) -> Any:
    return parse_listing("acme", parameters, canonical_address)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1700000000123", 1_700_000_000_123),
        ("2023-11-14T22:13:20.123Z", 1_700_000_000_123),
        ("2023-11-14T23:13:20.123+01:00", 1_700_000_000_123),
        ("2023-11-14T23:13:20.123 01:00", 1_700_000_000_123),
        ("2023-11-14", 1_699_920_000_000),
    ],
)
def test_time_is_rfc_3339_or_milliseconds(text: str, expected: int) -> None:
    assert parse_time("as_of", text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-1", "2023-11-14T22:13:20", "9" * 30, "²", "2023-13-01", "1e9"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(Refused):
        parse_time("as_of", text)


def test_filters_are_normalized() -> None:
    asked = listing(
        ("status", "bounced"),
        ("status", "accepted"),
        ("brand", "12"),
        ("recipient", "Anna Tag@BÜCHER.example"),
        ("recipient_domain", "BÜCHER.example"),
        ("order", "updated"),
        ("direction", "asc"),
        ("limit", "500"),
        ("fields", "status, facts.opened"),
        ("count", "exact"),
        ("cursor", "x" * 600),
    )
    assert asked.question.filter == EmailFilter(
        statuses=(EmailStatus.ACCEPTED, EmailStatus.BOUNCED),
        brand_uuid=brand_uuid("acme", "12"),
        recipient="anna+tag@xn--bcher-kva.example",
        recipient_domain="xn--bcher-kva.example",
    )
    assert (asked.question.order, asked.question.descending, asked.question.limit) == (EmailOrder.UPDATED, False, 500)
    assert (asked.question.fields, asked.count, len(asked.cursor)) == (("status", "facts.opened"), "exact", 600)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stat", "bounced"),
        ("status", "gone"),
        ("brand", ""),
        ("user_id", "x" * 501),
        ("limit", "0"),
        ("limit", "501"),
        ("limit", "²"),
        ("limit", "1000000000000"),
        ("direction", "up"),
        ("order", "brand"),
        ("count", "roughly"),
        ("fields", "password"),
        ("fields", ",".join(["status"] * 51)),
        ("as_of", "soon"),
        ("opened_by", "me"),
    ],
)
def test_other_parameters_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(Refused) as refused:
        listing((name, value))
    assert refused.value.where == name


@pytest.mark.parametrize("name", ["brand", "limit"])
def test_parameter_that_takes_one_value_is_refused_twice(name: str) -> None:
    with pytest.raises(Refused, match="more than once"):
        listing((name, "1"), (name, "1"))


def test_url_of_a_filter_leads_back_to_it() -> None:
    asked = EmailFilter(
        statuses=(EmailStatus.BOUNCED, EmailStatus.COMPLAINED),
        facts=(EmailFact.SENT,),
        brand_uuid=brand_uuid("acme", "12"),
        accepted_from=1_700_000_000_123,
        activity_id="a&b=c",
    )
    parameters = parse_qsl(urlsplit(emails_url(asked, 1_700_000_000_000)).query)
    assert ("as_of", "2023-11-14T22:13:20.000Z") in parameters
    assert parse_filter("acme", [each for each in parameters if each[0] != "as_of"], canonical_address) == asked
    with pytest.raises(ValueError, match="address"):
        emails_url(EmailFilter(recipient="anna@example.com"), 0)


def test_every_filter_takes_its_example() -> None:
    for name, parameter in FILTERS.items():
        assert parse_filter("acme", [(name, parameter.example)], canonical_address) != EmailFilter()


def test_body_has_the_same_parameters() -> None:
    assert parameters_of_body({"status": ["bounced", "failed"], "limit": 5}) == [
        ("status", "bounced"),
        ("status", "failed"),
        ("limit", "5"),
    ]
    others: tuple[Any, ...] = (True, None, 1.5, {}, [[1]])
    for value in others:
        with pytest.raises(Refused):
            parameters_of_body({"limit": value})
