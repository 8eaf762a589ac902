"""Tests of RQL queries as the SDK and people write them."""

import contextlib
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dialects import rql
from pipeline.dialects.extrahorizon_listing import MAIL_FIELDS, QUEUED_MAIL_FIELDS
from pipeline.errors import Refused
from projections.listing_query import ListingQuery


def where(query: str) -> str | None:
    return rql.parse(query, MAIL_FIELDS).where


def refusal(query: str) -> str:
    with pytest.raises(Refused) as caught:
        rql.parse(query, MAIL_FIELDS)
    return str(caught.value)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("eq(id,abc)", '(exists($."id" ? (@ == "abc")))'),
        ("id=abc", '(exists($."id" ? (@ == "abc")))'),
        ("eq(subject,5)", '(exists($."subject" ? (@ == "5")))'),
        ("ne(views,0)", '(!(exists($."views" ? (@ == 0))))'),
        ("views>=3&views<5", '(exists($."views" ? (@ >= 3)) && exists($."views" ? (@ < 5)))'),
        ("eq(subject,A%252C%2520%2528b%2529%2520%2526)", '(exists($."subject" ? (@ == "A, (b) &")))'),
        ("eq%28subject%2CA%2520b%29", '(exists($."subject" ? (@ == "A b")))'),
        ('eq(subject,a"b\\)', '(exists($."subject" ? (@ == "a\\"b\\\\")))'),
        ("like(subject,%255Ba%255D.*)", '(exists($."subject" ? (@ like_regex "[a].*" flag "iq")))'),
        ("in(recipients.to,a@b.c,d@e.f)", '(exists($."recipients"."to" ? (@ == "a@b.c" || @ == "d@e.f")))'),
        ("in(id,(a,b))", '(exists($."id" ? (@ == "a" || @ == "b")))'),
        ("out(id,a,b)", '(!(exists($."id" ? (@ == "a" || @ == "b"))))'),
        ("contains(body)", '(exists($."body"))'),
        ("excludes(templateId)", '(!(exists($."template_id")))'),
        ("contains(content.items,and(gt(n,60),lt(n,90)))", None),
        ("eq(content.firstName,5)", '(exists($."content"."firstName" ? (@ == 5 || @ == "5")))'),
        ("eq(content.plan,string:5)", '(exists($."content"."plan" ? (@ == "5")))'),
        ("eq(content.vip,true)", '(exists($."content"."vip" ? (@ == true || @ == "true")))'),
        (
            "gt(creationTimestamp,2024-01-01T00%253A00%253A00Z)",
            '(exists($."creation_timestamp" ? (@ > 1704067200000)))',
        ),
        ("or(eq(id,a),eq(id,b))", '((exists($."id" ? (@ == "a")) || exists($."id" ? (@ == "b"))))'),
        ("(id=a|id=b)&views=1", None),
    ],
)
def test_condition_becomes_a_predicate_with_json_values(query: str, expected: str | None) -> None:
    predicate = where(query)
    assert predicate is not None
    assert expected is None or predicate == expected


def test_page_operators_are_parsed_beside_conditions() -> None:
    assert rql.parse("", MAIL_FIELDS) == ListingQuery()
    listing_query = rql.parse(
        "eq(id,a)&sort(-creation_timestamp,+subject)&select(id,content.a)&limit(10,20)&skipCount()", MAIL_FIELDS
    )
    assert listing_query.sort == ((("creation_timestamp",), True), (("subject",), False))
    assert listing_query.select == (("id",), ("content", "a"))
    assert (listing_query.limit, listing_query.offset, listing_query.count) == (10, 20, False)
    assert rql.parse("limit(1000)", MAIL_FIELDS).limit == rql.PAGE_MAX_OBJECTS
    assert rql.parse("sort(+subject)", MAIL_FIELDS).sort == rql.parse("sort(%20subject)", MAIL_FIELDS).sort
    assert rql.parse("eq(status,queued)", QUEUED_MAIL_FIELDS).where is not None


def test_page_operators_are_allowed_in_an_and() -> None:
    listing_query = rql.parse("and(eq(id,a),and(select(subject),limit(3,6)),sort(-views),skip_count())", MAIL_FIELDS)
    assert listing_query == ListingQuery(
        where=where("eq(id,a)"),
        select=(("subject",),),
        limit=3,
        offset=6,
        sort=((("views",), True),),
        count=False,
    )
    assert rql.parse("and(select(id))", MAIL_FIELDS) == ListingQuery(select=(("id",),))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("or(eq(id,a),limit(1))", "only beside conditions"),
        ("contains(content.items,and(eq(a,1),select(id)))", "only beside conditions"),
        ("and(eq(id,a),b)", "is no condition"),
        ("eq(content." + "a." * 50 + "b,1)", "more than 40 steps"),
        ("contains(content.a" + ".b" * 30 + ",eq(c" + ".d" * 30 + ",1))", "more than 40 steps"),
        ("eq(content.1.2.3.4,1)", "more than 3 indexes"),
        ("eq(subject.text,1)", "no field of ours"),
        ("eq(nothing,1)", "no field of ours"),
        ("eq(id", "')' expected"),
        ("eq(id,a))", "nothing more is expected"),
        ("eq(id)", "a field and a value"),
        ("eq()", "which field"),
        ("nonsense(id,1)", "no operator of ours"),
        ("id", "is no condition"),
        ("id=a&id=b|id=c", "parentheses"),
        ("and()", "of what"),
        ("limit(x)", "whole numbers"),
        ("limit(1,2,3)", "whole numbers"),
        ("limit(-1)", "whole numbers"),
        ("sort()", "one to 3"),
        ("sort(id,id,id,id)", "one to 3"),
        ("eq(views,many)", "no number"),
        ("gt(creation_timestamp,soon)", "no time"),
        ("eq(id,%00)", "NUL"),
        ("eq(id,%2500)", "NUL"),
        ("eq(id,%FF)", "UTF-8"),
        ("(" * 50 + "id=a" + ")" * 50, "nested too deeply"),
        ("&".join(["id=a"] * 300), "too long"),
        ("id=" + "a" * 9000, "more than 8000"),
        ('eq(content.a"b,1)', "not a field"),
    ],
)
def test_invalid_query_is_refused_with_a_reason(query: str, words: str) -> None:
    assert words in refusal(query)


def cost(query: str) -> int:
    """Return the number of lines that are executed for a query, which is the same on a fast and on a slow machine."""
    lines = 0

    def count(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    sys.settrace(count)
    try:
        with contextlib.suppress(Refused):
            rql.parse(query, MAIL_FIELDS)
    finally:
        sys.settrace(None)
    return lines


@pytest.mark.parametrize(
    ("head", "unit", "tail"),
    [
        ("in(content.1.1.1", ",a", ")"),
        ("eq(content", ".a", ",1)"),
        ("", "(", ""),
        ("", "eq(id,1)&", "eq(id,1)"),
        ("", "contains(content.a,", ""),
        ("contains(content" + ".a" * 38 + ",and(eq(a,1)", ",eq(a,1)", "))"),
        ("id", "=lt", ""),
    ],
)
def test_work_grows_no_faster_than_the_query(head: str, unit: str, tail: str) -> None:
    half, full = (cost(head + unit * (size // len(unit)) + tail) for size in (1_500, 3_000))
    assert full <= 2.5 * half


@settings(max_examples=500)
@given(
    st.lists(
        st.sampled_from(
            [
                "eq",
                "in",
                "and",
                "or",
                "like",
                "contains",
                "limit",
                "sort",
                "(",
                ")",
                ",",
                "&",
                "|",
                "=",
                "<",
                ">",
                "!",
                "id",
                "views",
                "content",
                ".",
                "a",
                "1",
                "-",
                "+",
                "%25",
                "%",
                '"',
                "\\",
                "$",
                "@",
                "é",
                " ",
            ]
        ),
        max_size=14,
    )
)
def test_any_text_is_parsed_or_refused(pieces: list[str]) -> None:
    try:
        listing_query = rql.parse("".join(pieces), MAIL_FIELDS)
    except Refused:
        return
    assert isinstance(listing_query, ListingQuery)
