"""Cursors: opaque, signed, bound to tenant, filter and moment."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Refused
from pipeline.runtime.secrets.signing import Signer
from pipeline.suppressions import cursor as of_suppressions
from pipeline.suppressions.commands import BRAND_MAX_CHARS
from projections import history_cursor
from projections.history import HistoryFilter, HistoryPosition, HistoryQuery, point_in_time
from projections.history_cursor import InvalidHistoryCursor, ListingParameters
from projections.suppressions import SuppressionListQuery, SuppressionPosition
from tests.conftest import RING
from tests.support.changes import identified
from topics.readings import ListedState
from topics.suppressions import SuppressionReason

SIGNER = Signer(RING, "cursor")
ASKED = HistoryFilter(brand_uuid="7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02", listed=ListedState.BOUNCED)
BEHIND = HistoryPosition(1_700_000_000_123, identified(1))


def written(asked: HistoryFilter = ASKED, after: int | None = None, tenant: str = "acme") -> str:
    return history_cursor.encode_cursor(SIGNER.tag, HistoryQuery(tenant=tenant, filter=asked, as_of=42), after, BEHIND)


def read(text: str, given_: ListingParameters, tenant: str = "acme") -> tuple[HistoryQuery, int | None]:
    return history_cursor.decode_cursor(SIGNER.verify, tenant, text, given_)


@pytest.mark.parametrize("beside", [ASKED, HistoryFilter(), HistoryFilter(listed=ListedState.BOUNCED)])
def test_cursor_continues_with_or_without_repeated_parameters(beside: HistoryFilter) -> None:
    query, after = read(written(after=7), ListingParameters(filter=beside))
    assert query == HistoryQuery(tenant="acme", filter=ASKED, as_of=42, start_after=BEHIND)
    assert after == 7
    assert read(written(after=7), ListingParameters(filter=beside, after=7))[0] == query


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (ListingParameters(filter=HistoryFilter(listed=ListedState.SENT)), "another State"),
        (ListingParameters(filter=HistoryFilter(brand_uuid="7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c03")), "another BrandId"),
        (ListingParameters(filter=HistoryFilter(), after=8), "another After"),
        (ListingParameters(filter=HistoryFilter(recipient="a@example.com")), "another Email"),
    ],
)
def test_other_parameters_beside_a_cursor_raise(beside: ListingParameters, named: str) -> None:
    with pytest.raises(InvalidHistoryCursor, match=named):
        read(written(after=7), beside)


def test_an_address_is_not_in_its_cursor_and_must_come_with_it() -> None:
    text = written(HistoryFilter(recipient="anna@example.com"))
    raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    assert b"anna" not in raw
    assert (
        read(text, ListingParameters(filter=HistoryFilter(recipient="anna@example.com")))[0].filter.recipient
        == "anna@example.com"
    )
    with pytest.raises(InvalidHistoryCursor, match="another Email"):
        read(text, ListingParameters(filter=HistoryFilter()))


def test_cursor_of_another_tenant_is_refused() -> None:
    with pytest.raises(InvalidHistoryCursor, match="another tenant"):
        read(written(), ListingParameters(filter=ASKED), tenant="other")


def test_cursor_signed_for_another_purpose_is_refused() -> None:
    forged = history_cursor.encode_cursor(
        Signer(RING, "track").tag, HistoryQuery(tenant="acme", filter=ASKED, as_of=42), None, BEHIND
    )
    with pytest.raises(InvalidHistoryCursor):
        read(forged, ListingParameters(filter=ASKED))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_cursor_with_any_bit_changed_is_refused(place: int, flip: int) -> None:
    text = written()
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    raw[place % len(raw)] ^= flip
    with pytest.raises(InvalidHistoryCursor):
        read(base64.urlsafe_b64encode(raw).decode().rstrip("="), ListingParameters(filter=ASKED))


@given(st.text(max_size=300))
def test_random_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidHistoryCursor):
        read(text, ListingParameters(filter=ASKED))


def test_too_long_cursor_is_refused_undecoded() -> None:
    with pytest.raises(InvalidHistoryCursor, match="too long"):
        read("A" * 1_000_000, ListingParameters(filter=ASKED))


def test_a_listing_of_suppressions_goes_on_for_the_longest_brand() -> None:
    brand = "\U0001f4e7" * BRAND_MAX_CHARS
    asked, behind = (
        SuppressionListQuery(tenant="acme", brand=brand, reason=max(SuppressionReason, key=len)),
        SuppressionPosition(bytes(32), brand),
    )
    text = of_suppressions.encode_cursor(SIGNER.tag, asked, behind)
    assert of_suppressions.decode_cursor(SIGNER.verify, text, asked).start_after == behind
    with pytest.raises(Refused, match="another tenant"):
        of_suppressions.decode_cursor(SIGNER.verify, text, SuppressionListQuery(tenant="other"))


def test_cursor_of_another_listing_is_refused() -> None:
    with pytest.raises(Refused, match="not a cursor of ours"):
        of_suppressions.decode_cursor(SIGNER.verify, written(), SuppressionListQuery(tenant="acme"))


def test_after_names_a_whole_second_and_nothing_that_is_not_projected_yet() -> None:
    assert point_in_time(None, 1_700_000_000_500) == 1_700_000_000_500
    assert point_in_time(1_699_999_999, 1_700_000_000_500) == 1_699_999_999_999
    assert point_in_time(1_700_000_000, 1_700_000_000_500) == 1_700_000_000_500
    assert point_in_time(9_999_999_999, 1_700_000_000_500) == 1_700_000_000_500
