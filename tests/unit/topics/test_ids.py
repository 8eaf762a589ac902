"""Ids: the same for the same, different for the different, and never changed: the log depends on them."""

import uuid

from hypothesis import given
from hypothesis import strategies as st

from topics import ids

texts = st.text(max_size=12)


def test_ids_on_the_log_stay_what_they_are() -> None:
    assert ids.email_id("t", "fasttrack", "act-1") == "5293f1b7-c265-5075-98df-e4d268d384f3"
    assert ids.message_id("t", "fasttrack", "act-1") == "ae4b14e2-9f09-523d-b04a-32dce4328e5e"
    assert ids.event_id("sendgrid", "a", "b") == "sendgrid:5c3ac8e9-d005-5faf-9e37-2284fe549b62"
    assert ids.id_hash("sendgrid:1") == 2891276456401528634
    assert ids.brand_uuid("t", "1") == "0144065f-9add-5178-823f-3f03faa7a819"
    assert ids.owner_uuid("t") == "ef158603-169a-505b-b398-d73d2b9bb6d5"


@given(st.lists(texts, min_size=3, max_size=3), st.lists(texts, min_size=3, max_size=3), st.integers(0, 3))
def test_two_emails_share_an_id_only_if_they_are_one(one: list[str], other: list[str], ordinal: int) -> None:
    same = one == other
    assert (ids.email_id(one[0], one[1], one[2]) == ids.email_id(other[0], other[1], other[2])) == same
    assert (ids.email_id(one[0], one[1], one[2], ordinal) == ids.email_id(one[0], one[1], one[2])) == (ordinal == 0)


def test_where_one_part_ends_and_the_next_begins_makes_a_difference() -> None:
    assert ids.event_id("s", "a", "bc") != ids.event_id("s", "ab", "c")
    assert ids.event_id("s", "a|1:b") != ids.event_id("s", "a", "b")
    assert ids.email_id("t", "d", "x") != ids.message_id("t", "d", "x")


@given(st.text())
def test_a_hash_fits_every_json_reader_and_postgres(text: str) -> None:
    assert 0 <= ids.id_hash(text) < 2**63


def test_a_hash_of_a_broken_text_is_a_hash() -> None:
    assert ids.id_hash("\ud800") >= 0


@given(st.uuids())
def test_a_brand_that_is_a_uuid_stays_itself(brand: uuid.UUID) -> None:
    assert ids.brand_uuid("t", str(brand).upper()) == str(brand)
