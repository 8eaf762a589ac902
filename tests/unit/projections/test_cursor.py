"""Cursors: opaque, signed, bound to tenant, filter and moment."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Refused
from pipeline.runtime.signing import Signer
from pipeline.suppressions import cursor as of_suppressions
from pipeline.suppressions.commands import BRAND_MAX
from projections import cursor
from projections.cursor import BadCursor, Given
from projections.history import Filter, Position, Query, point_in_time
from projections.suppressions import Asked, Place
from tests.conftest import SECRET
from tests.support.changes import identified
from topics.readings import ListedState
from topics.suppressions import Reason

SIGNER = Signer(SECRET, "cursor")
ASKED = Filter(brand_uuid="7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02", listed=ListedState.BOUNCED)
BEHIND = Position(1_700_000_000_123, identified(1))


def written(asked: Filter = ASKED, after: int | None = None, tenant: str = "acme") -> str:
    return cursor.write(SIGNER.tag, Query(tenant=tenant, filter=asked, as_of=42), after, BEHIND)


def read(text: str, given_: Given, tenant: str = "acme") -> tuple[Query, int | None]:
    return cursor.read(SIGNER.verify, tenant, text, given_)


@pytest.mark.parametrize("beside", [ASKED, Filter(), Filter(listed=ListedState.BOUNCED)])
def test_a_cursor_goes_on_with_the_same_question_repeated_or_not(beside: Filter) -> None:
    query, after = read(written(after=7), Given(filter=beside))
    assert query == Query(tenant="acme", filter=ASKED, as_of=42, behind=BEHIND)
    assert after == 7
    assert read(written(after=7), Given(filter=beside, after=7))[0] == query


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (Given(filter=Filter(listed=ListedState.SENT)), "another State"),
        (Given(filter=Filter(brand_uuid="7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c03")), "another BrandId"),
        (Given(filter=Filter(), after=8), "another After"),
        (Given(filter=Filter(recipient="a@example.com")), "another Email"),
    ],
)
def test_another_question_beside_a_cursor_is_a_clear_error(beside: Given, named: str) -> None:
    with pytest.raises(BadCursor, match=named):
        read(written(after=7), beside)


def test_an_address_is_not_in_its_cursor_and_must_come_with_it() -> None:
    text = written(Filter(recipient="anna@example.com"))
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    assert b"anna" not in raw
    assert read(text, Given(filter=Filter(recipient="anna@example.com")))[0].filter.recipient == "anna@example.com"
    with pytest.raises(BadCursor, match="another Email"):
        read(text, Given(filter=Filter()))


def test_another_tenant_s_cursor_is_as_good_as_forged() -> None:
    with pytest.raises(BadCursor, match="another tenant"):
        read(written(), Given(filter=ASKED), tenant="other")


def test_a_cursor_signed_for_another_purpose_is_forged() -> None:
    forged = cursor.write(Signer(SECRET, "track").tag, Query(tenant="acme", filter=ASKED, as_of=42), None, BEHIND)
    with pytest.raises(BadCursor):
        read(forged, Given(filter=ASKED))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_cursor_with_any_bit_changed_is_refused(place: int, flip: int) -> None:
    text = written()
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    raw[place % len(raw)] ^= flip
    with pytest.raises(BadCursor):
        read(base64.urlsafe_b64encode(raw).decode().rstrip("="), Given(filter=ASKED))


@given(st.text(max_size=300))
def test_no_text_at_all_makes_it_stumble(text: str) -> None:
    with pytest.raises(BadCursor):
        read(text, Given(filter=ASKED))


def test_a_cursor_of_megabytes_is_not_even_looked_at() -> None:
    with pytest.raises(BadCursor, match="too long"):
        read("A" * 1_000_000, Given(filter=ASKED))


def test_a_listing_of_suppressions_goes_on_for_the_longest_brand() -> None:
    brand = "\U0001f4e7" * BRAND_MAX
    asked, behind = Asked(tenant="acme", brand=brand, reason=max(Reason, key=len)), Place(bytes(32), brand)
    text = of_suppressions.write(SIGNER.tag, asked, behind)
    assert of_suppressions.read(SIGNER.verify, text, asked).behind == behind
    with pytest.raises(Refused, match="another tenant"):
        of_suppressions.read(SIGNER.verify, text, Asked(tenant="other"))


def test_a_cursor_of_one_listing_is_none_of_another() -> None:
    with pytest.raises(Refused, match="not a cursor of ours"):
        of_suppressions.read(SIGNER.verify, written(), Asked(tenant="acme"))


def test_after_names_a_whole_second_and_nothing_that_is_not_projected_yet() -> None:
    assert point_in_time(None, 1_700_000_000_500) == 1_700_000_000_500
    assert point_in_time(1_699_999_999, 1_700_000_000_500) == 1_699_999_999_999
    assert point_in_time(1_700_000_000, 1_700_000_000_500) == 1_700_000_000_500
    assert point_in_time(9_999_999_999, 1_700_000_000_500) == 1_700_000_000_500
