"""A request larger than a record: kept in parts that give the same events, or cut with a word about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Unrecognised
from pipeline.webhooks.providers import sendgrid
from pipeline.webhooks.splitting import MAX_CUT_EVENT_BYTES, PART_HEADER, events_of, split_into_parts

ROOM = 200


def events(body: bytes, room: int = ROOM) -> list[bytes]:
    found = []
    for part in split_into_parts(sendgrid, body, {}, room):
        assert len(part.body) <= room
        found += events_of(sendgrid, part.body, {PART_HEADER: part.note} if part.note else {})
    return found


def array(*items: bytes) -> bytes:
    return b"[" + b",".join(items) + b"]"


def test_body_that_fits_is_unchanged() -> None:
    body = b' [ {"event":"open"} , 7 ]\n'
    (part,) = split_into_parts(sendgrid, body, {}, ROOM)
    assert (part.body, part.note) == (body, "")


@given(st.lists(st.integers(0, ROOM - 30).map(lambda n: b'"' + b"x" * n + b'"'), max_size=60))
def test_parts_give_the_same_events_in_the_same_order_and_each_fits(items: list[bytes]) -> None:
    assert events(array(*items)) == items


def test_too_large_event_does_not_affect_others() -> None:
    small, large = [b'{"n":%d}' % n for n in range(50)], b'"' + b"x" * 300_000 + b'"'
    parts = split_into_parts(sendgrid, array(*small[:25], large, *small[25:]), {}, MAX_CUT_EVENT_BYTES + 100)
    *whole, cut = parts
    assert [event for part in whole for event in events_of(sendgrid, part.body, {PART_HEADER: part.note})] == small
    assert large.startswith(cut.body[1:])
    with pytest.raises(Unrecognised, match="the first 100000 of 300002 bytes"):
        events_of(sendgrid, cut.body, {PART_HEADER: cut.note})


@pytest.mark.parametrize("body", [b"[" * 300_000, b"[" + b" " * 299_998 + b"]"], ids=["not JSON", "no events"])
def test_body_that_cannot_be_split_is_cut(body: bytes) -> None:
    (cut,) = split_into_parts(sendgrid, body, {}, MAX_CUT_EVENT_BYTES + 100)
    with pytest.raises(Unrecognised, match="of 300000 bytes"):
        events_of(sendgrid, cut.body, {PART_HEADER: cut.note})
