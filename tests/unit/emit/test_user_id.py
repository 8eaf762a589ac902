"""Conversion of `user_id` to a number for destinations that need it, with every other byte unchanged."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.emit import fasttrack
from projections.pending_conversions import PendingConversion
from topics.conversions import ConversionWord
from topics.record import EmailId

VERBATIM = (
    b'{ "id":"\\u00e5 \\"user_id\\": \\"9\\"", "user_id" :  "%s" ,"big":123456789012345678901234567890,'
    b' "f":1E400,"nested":{"user_id":"5"}, "list":[{"user_id":"6"}],"x":-0 }'
)


def cast(raw: bytes) -> bytes:
    return bytes(fasttrack.with_integer_user_id(msgspec.Raw(raw)))


@pytest.mark.parametrize("number", [b"987654", b"0", b"-5", b"123456789012345678901234567890"])
def test_user_id_loses_only_its_quotes(number: bytes) -> None:
    assert cast(VERBATIM % number) == (VERBATIM % number).replace(
        b'"user_id" :  "%s"' % number, b'"user_id" :  ' + number
    )


@pytest.mark.parametrize("spelled", [b"", b"007", b"-0x1", b"1.0", b"1e3", b" 5", b"player", b"\\u0035", "٣".encode()])
def test_user_id_that_is_no_integer_is_unchanged(spelled: bytes) -> None:
    assert cast(VERBATIM % spelled) == VERBATIM % spelled


@pytest.mark.parametrize("number", [b"987654", b"-5", b"123456789012345678901234567890"])
def test_numeric_user_id_is_unchanged(number: bytes) -> None:
    raw = VERBATIM.replace(b'"%s"', b"%s") % number
    assert cast(raw) == raw


def test_both_of_two_user_ids_become_numbers() -> None:
    assert cast(b'{"user_id":"1","user_id":"2"}') == b'{"user_id":1,"user_id":2}'


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.text())), st.integers())
def test_any_activity_is_equal_except_for_user_id(others: dict[str, object], number: int) -> None:
    given_ = {**others, "user_id": str(number)}
    assert json.loads(cast(json.dumps(given_).encode())) == {**given_, "user_id": number}


def test_user_id_is_unchanged_by_default() -> None:
    debt = PendingConversion(
        email_id=EmailId("e"),
        word=ConversionWord.OPEN,
        tenant="t",
        brand="b",
        activity=msgspec.Raw(b'{ "user_id":"5"}'),
    )
    assert fasttrack.body(debt) == b'{"activity":{ "user_id":"5"},"email_id":"e","delivery_status":"open"}'
    wanted = b'{"activity":{ "user_id":5},"email_id":"e","delivery_status":"open"}'
    assert fasttrack.body(debt, user_id_integer=True) == wanted
