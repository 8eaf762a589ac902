"""A JSON object's fields, whatever a provider put there."""

import pytest

from pipeline.errors import Unrecognised
from pipeline.webhooks.fields import EventFields, as_email_id, split_array

WHOLE = EventFields.read(
    b'{"a":"x\\u0000y","n":7,"f":1.50,"t":true,"z":null,"o":{"p":{"q":"deep"}},'
    b'"l":["one",2,null,{"k":"v"},[3],true],"id":"0190A1B2-C3D4-7E5F-8A9B-0C1D2E3F4A5B"}'
)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("a",), "xy"),
        (("n",), "7"),
        (("f",), "1.50"),
        (("t",), "true"),
        (("z",), ""),
        (("o",), ""),
        (("l",), ""),
        (("gone",), ""),
        (("o", "p", "q"), "deep"),
        (("a", "p"), ""),
        (("gone", "p"), ""),
    ],
)
def test_text_of_a_value_that_is_not_scalar_is_empty(path: tuple[str, ...], text: str) -> None:
    assert WHOLE.text(*path) == text


def test_items_of_an_array_are_read_by_type() -> None:
    assert WHOLE.texts("l") == ["one", "2", "true"]
    assert [one.text("k") for one in WHOLE.objects("l")] == ["v"]
    assert len(WHOLE.items("l")) == 6
    for path in (("a",), ("z",), ("gone",), ("o", "gone")):
        assert not WHOLE.texts(*path)
        assert not WHOLE.objects(*path)
        assert not WHOLE.items(*path)


def test_value_that_is_not_an_object_has_no_fields() -> None:
    assert WHOLE.object("o", "p").text("q") == "deep"
    for path in (("a",), ("l",), ("gone",)):
        assert WHOLE.object(*path).raw == {}


@pytest.mark.parametrize(
    ("word", "yes"), [("true", True), ('"Yes"', True), ("1", True), ("false", False), ("null", False)]
)
def test_true_is_read_in_every_spelling(word: str, yes: bool) -> None:
    assert EventFields.read(f'{{"x":{word}}}'.encode()).true("x") is yes


def test_email_id_is_canonical_for_every_spelling() -> None:
    assert as_email_id(WHOLE.text("id")) == "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
    assert as_email_id("theirs") is None
    assert as_email_id(WHOLE.text("o")) is None


@pytest.mark.parametrize(
    "value", [b"", b"1", b"[]", b"null", b"\xff", b'{"a":tru}', b'{"a":"\\ud800"}', b'{"a":' * 100_000]
)
def test_partly_malformed_object_is_unrecognised(value: bytes) -> None:
    with pytest.raises(Unrecognised):
        EventFields.read(value)


def test_only_arrays_are_split() -> None:
    assert split_array(b' [ {"a": 1} , 2 ] ') == [b'{"a": 1}', b"2"]
    with pytest.raises(Unrecognised):
        split_array(b"{}")
