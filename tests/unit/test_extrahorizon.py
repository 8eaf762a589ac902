"""Extra Horizon's requests as bytes: what becomes of them, and what is answered."""

import json
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dialects import extrahorizon
from pipeline.dialects.extrahorizon import CODES, Mail, Recipients, Trouble
from projections.asking import Question

GOLDEN = Path(__file__).parents[1] / "golden" / "extrahorizon"


def outcome(body: bytes) -> str:
    """Whether it is a wish, or which trouble."""
    try:
        extrahorizon.read(body)
    except Trouble as trouble:
        return CODES[trouble.code][1]
    return "taken"


def test_an_address_gets_one_email_however_often_it_is_named() -> None:
    wish = extrahorizon.read((GOLDEN / "plain_all_fields.body.json").read_bytes())
    assert wish.each == ("anna@example.com", "ben@example.com", "cy@example.com", "di@example.com")
    assert [box.address for box in wish.shown.to] == ["anna@example.com", "ben@example.com"]


def mail(**values: Any) -> Mail:
    fields: dict[str, Any] = {
        "id": "m",
        "creator_id": "c",
        "subject": "s",
        "recipients": Recipients(to=("a@example.com",)),
        "from_": "b@example.com",
        "creation_timestamp": 5,
    }
    return Mail(**(fields | values))


def test_what_is_kept_has_no_content_and_what_is_answered_has_it_and_no_views_yet() -> None:
    content = msgspec.Raw(b'{"a":1}')
    assert "content" not in json.loads(bytes(extrahorizon.kept(mail(content=content))))
    answered = json.loads(extrahorizon.answer(mail(content=content, body="")))
    assert answered == {
        "id": "m",
        "creator_id": "c",
        "subject": "s",
        "recipients": {"to": ["a@example.com"]},
        "from": "b@example.com",
        "body": "",
        "content": {"a": 1},
        "views": 0,
        "creation_timestamp": 5,
        "update_timestamp": 5,
    }


def test_a_page_selects_what_is_asked_and_always_the_id() -> None:
    found = ['{"id":"m","subject":"s","recipients":{"to":["a"],"cc":["b"]},"views":3}']
    asked = Question(select=(("recipients", "to"), ("nothing",)), limit=10, offset=2)
    assert json.loads(extrahorizon.page(found, 7, asked)) == {
        "page": {"total": 7, "offset": 2, "limit": 10},
        "data": [{"id": "m", "recipients": {"to": ["a"]}}],
    }
    assert json.loads(extrahorizon.page(found, None, Question())) == {
        "page": {"offset": 0, "limit": 20},
        "data": [json.loads(found[0])],
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("recipients", "subject", "body", "template_id", "content", "from", "reply_to", "attachments", "language")


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values), st.sampled_from(["", "to", "cc"]))
def test_any_object_is_a_wish_or_a_trouble_of_a_known_code(body: dict[str, Any], kind: str) -> None:
    if kind:
        body["recipients"] = {kind: ["a@example.com"]}
    assert outcome(json.dumps(body).encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_a_wish_or_a_trouble(body: bytes) -> None:
    assert outcome(body)
