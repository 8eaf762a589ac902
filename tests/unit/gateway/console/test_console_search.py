"""What people type into the search box is an id, an address or filters; anything else is said to be wrong."""

import pytest

from pipeline.errors import Refused
from pipeline.gateway.console.search import EmailSearch, parse_moment, parse_search, search_text

NAMES = ("status", "brand", "after")
NOW = 1_795_000_000_000  # 2026-11-18T11:06:40Z


@pytest.mark.parametrize(
    ("text", "search"),
    [
        ("", EmailSearch()),
        ("  0192f0c1-0000-7000-8000-000000000000 ", EmailSearch(identifier="0192f0c1-0000-7000-8000-000000000000")),
        ("anna@example.com", EmailSearch(address="anna@example.com")),
        ("<id@relay.example>", EmailSearch(identifier="<id@relay.example>")),
        ("status:bounced brand:acme", EmailSearch(filters={"status": "bounced", "brand": "acme"})),
        ('brand:"two words" status:sent', EmailSearch(filters={"brand": "two words", "status": "sent"})),
        ("anna@example.com brand:acme", EmailSearch(address="anna@example.com", filters={"brand": "acme"})),
        ("order-7:a", EmailSearch(identifier="order-7:a")),
    ],
)
def test_search_is_understood(text: str, search: EmailSearch) -> None:
    assert parse_search(text, NAMES) == search


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("one two", "two things"),
        ("colour:red", "there is no filter colour"),
        ("activity-7 status:sent", "leave the filters out"),
        ("x" * 1001, "at most 1000"),
    ],
)
def test_search_that_is_not_understood_is_refused(text: str, problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        parse_search(text, NAMES)


def test_text_of_filters_asks_for_the_same_filters() -> None:
    filters = {"brand": "two words", "status": "sent"}
    assert parse_search(search_text(filters), NAMES).filters == filters


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-01", 1_793_491_200_000),
        ("2026-11-01T10:00", 1_793_527_200_000),
        ("2026-11-01T10:00+01:00", 1_793_523_600_000),
        ("today", 1_794_960_000_000),
        ("Yesterday", 1_794_873_600_000),
        ("90m", NOW - 5_400_000),
        ("7d", NOW - 7 * 86_400_000),
    ],
)
def test_moment_is_understood(text: str, moment: int) -> None:
    assert parse_moment(text, NOW) == moment


def test_moment_that_is_not_understood_is_refused() -> None:
    with pytest.raises(Refused, match="not a time"):
        parse_moment("soon", NOW)
