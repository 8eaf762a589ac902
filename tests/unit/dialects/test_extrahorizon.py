"""Extra Horizon's requests as bytes: what becomes of them, and what is answered."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.content.chunks import MAX_PART_BYTES
from pipeline.dialects import extrahorizon
from pipeline.dialects.extrahorizon import ERROR_CODES, ExtraHorizonMail, ExtraHorizonRecipients, ExtraHorizonRefused
from projections.asking import ListingQuery

GOLDEN = Path(__file__).parents[2] / "golden" / "extrahorizon"


def outcome(body: bytes) -> str:
    """Whether it is a wish, or which trouble."""
    try:
        extrahorizon.parse_request(body)
    except ExtraHorizonRefused as trouble:
        return ERROR_CODES[trouble.code][1]
    return "taken"


def test_an_address_gets_one_email_however_often_it_is_named() -> None:
    wish = extrahorizon.parse_request((GOLDEN / "plain_all_fields.body.json").read_bytes())
    assert wish.recipient_addresses == ("anna@example.com", "ben@example.com", "cy@example.com", "di@example.com")
    assert [box.address for box in wish.visible_recipients.to] == ["anna@example.com", "ben@example.com"]


def mail(**values: Any) -> ExtraHorizonMail:
    fields: dict[str, Any] = {
        "id": "m",
        "creator_id": "c",
        "subject": "s",
        "recipients": ExtraHorizonRecipients(to=("a@example.com",)),
        "from_": "b@example.com",
        "creation_timestamp": 5,
    }
    return ExtraHorizonMail(**(fields | values))


def test_what_is_kept_has_no_content_and_what_is_answered_has_it_and_no_views_yet() -> None:
    content = msgspec.Raw(b'{"a":1}')
    assert "content" not in json.loads(bytes(extrahorizon.encode_stored_mail(mail(content=content))))
    answered = json.loads(extrahorizon.encode_accepted_mail(mail(content=content, body="")))
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
    asked = ListingQuery(select=(("recipients", "to"), ("nothing",)), limit=10, offset=2)
    assert json.loads(extrahorizon.encode_page(found, 7, asked)) == {
        "page": {"total": 7, "offset": 2, "limit": 10},
        "data": [{"id": "m", "recipients": {"to": ["a"]}}],
    }
    assert json.loads(extrahorizon.encode_page(found, None, ListingQuery())) == {
        "page": {"offset": 0, "limit": 20},
        "data": [json.loads(found[0])],
    }


def test_a_selection_reaches_into_lists_of_objects() -> None:
    found = ['{"id":"m","content":{"a":{"b":1,"c":2},"items":[{"n":1,"x":2},3,{"x":4}]},"views":3}']

    def asked(*select: tuple[str, ...]) -> Any:
        return json.loads(extrahorizon.encode_page(found, None, ListingQuery(select=select)))["data"][0]

    assert asked(("content", "items", "n")) == {"id": "m", "content": {"items": [{"n": 1}, {}]}}
    both = asked(("content", "a", "b"), ("content", "a"))
    assert both == asked(("content", "a"), ("content", "a", "b")) == {"id": "m", "content": {"a": {"b": 1, "c": 2}}}
    assert asked(("content", "a", "b"), ("content", "a", "c")) == both
    assert asked(("views", "b")) == {"id": "m"}


def request(**fields: Any) -> bytes:
    return json.dumps({"recipients": {"to": ["a@example.com"]}, "subject": "s", "body": "b"} | fields).encode()


def refusal(body: bytes) -> ExtraHorizonRefused:
    with pytest.raises(ExtraHorizonRefused) as caught:
        extrahorizon.parse_request(body)
    return caught.value


@pytest.mark.parametrize(
    ("text", "name", "address"),
    [
        ("a@example.com", "", "a@example.com"),
        ("<a@example.com>", "", "a@example.com"),
        ("  Anna B  <a@example.com> ", "Anna B", "a@example.com"),
        ('"Anna, B" <a@example.com>', "Anna, B", "a@example.com"),
        ("二ノ宮 <二ノ宮@黒川.日本>", "二ノ宮", "二ノ宮@黒川.日本"),
    ],
)
def test_an_address_may_have_a_name(text: str, name: str, address: str) -> None:
    (box,) = extrahorizon.parse_request(request(recipients={"to": [text]})).visible_recipients.to
    assert (box.name, box.address) == (name, address)


@pytest.mark.parametrize(
    "text", ["A <a@example.com> b", "A <<a@example.com>", "A> <a@example.com>", "<>", "A <a@example.com", "", " "]
)
def test_what_is_no_address_with_a_name_is_refused(text: str) -> None:
    assert str(refusal(request(recipients={"to": [text]}))).startswith("recipients.to[0]: ")


@pytest.mark.parametrize("unit", [" ", "<", "a ", " <", '"', "=?utf-8?q?", "a@", "\u00e4", "."])
def test_an_address_that_is_too_long_is_refused_before_it_is_read(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(extrahorizon, "address_problem", lambda address, **_: read.append(address))
    text = unit * 5_000
    for fields in ({"recipients": {"to": [text]}}, {"from": text}, {"reply_to": [text]}):
        assert "more than 1260 characters" in str(refusal(request(**fields)))
    assert text not in read


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"subject": "=?utf-8?q?" * 20_000}, 998),
        ({"attachments": [{"content": "", "name": "=?utf-8?q?" * 20_000}]}, 255),
        ({"attachments": [{"content": "", "name": "a", "type": "=?utf-8?q?" * 20_000}]}, 998),
    ],
)
def test_a_header_that_is_too_long_is_refused_before_it_is_read(
    fields: dict[str, Any], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(extrahorizon, "header_text_problem", read.append)
    assert f"more than {most} characters" in str(refusal(request(**fields)))
    assert all(len(text) <= most for text in read)


@pytest.mark.parametrize(
    "fields",
    [
        {"recipients": {"to": ["ab"] * 200_000}},
        {"reply_to": ["ab"] * 200_000},
        {"content": {"a": [[]] * 500_000}},
        {"body": "x" * 1_300_000},
        {"subject": "x" * 1_300_000},
    ],
)
def test_a_part_that_is_too_large_is_refused_before_it_is_decoded(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extrahorizon, "_decode_request", None)
    assert next(iter(fields)) in str(refusal(request(**fields)))


def test_a_body_beside_a_template_is_taken_and_a_subject_is_not() -> None:
    wish = extrahorizon.parse_request(request(template_id="welcome", subject=None, body="for readers without HTML"))
    assert (wish.template, wish.send.body) == ("welcome", "for readers without HTML")
    assert refusal(request(template_id="welcome", body=None)).code == 26


@pytest.mark.parametrize(
    ("status", "name"), [(429, "SERVICE_UNREACHABLE_EXCEPTION"), (408, ERROR_CODES[4][1]), (413, ERROR_CODES[26][1])]
)
def test_a_status_that_a_repeat_may_heal_has_the_code_that_says_so(status: int, name: str) -> None:
    assert json.loads(extrahorizon.encode_error(status, "later", ""))["name"] == name


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


def test_text_over_five_megabytes_is_told_before_anything_is_taken() -> None:
    wish = extrahorizon.parse_request(request(subject="s", body="b"))
    extrahorizon.check_size(wish, "s", "x" * MAX_PART_BYTES)
    with pytest.raises(ExtraHorizonRefused, match="a text has 5242881 bytes; at most 5242880 can be sent"):
        extrahorizon.check_size(wish, "s", "x" * (MAX_PART_BYTES + 1))
