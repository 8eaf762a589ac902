"""Tests of Extra Horizon's requests and answers."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.content.chunks import MAX_PART_BYTES
from pipeline.dialects import extrahorizon, extrahorizon_listing
from pipeline.dialects.extrahorizon import ERROR_CODES, ExtraHorizonMail, ExtraHorizonRecipients, ExtraHorizonRefused
from projections.listing_query import ListingQuery

GOLDEN = Path(__file__).parents[2] / "golden" / "extrahorizon"


def outcome(body: bytes) -> str:
    """Return "accepted" for a valid body, or the name of its error."""
    try:
        extrahorizon.parse_request(body)
    except ExtraHorizonRefused as refused:
        return ERROR_CODES[refused.code][1]
    return "accepted"


def test_repeated_address_gets_one_email() -> None:
    command = extrahorizon.parse_request((GOLDEN / "plain_all_fields.body.json").read_bytes())
    assert command.recipient_addresses == ("anna@example.com", "ben@example.com", "cy@example.com", "di@example.com")
    assert [box.address for box in command.visible_recipients.to] == ["anna@example.com", "ben@example.com"]


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


def test_stored_mail_has_no_content_and_accepted_mail_has_it_without_views() -> None:
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


def test_page_has_the_selected_fields_and_the_id() -> None:
    mails = ['{"id":"m","subject":"s","recipients":{"to":["a"],"cc":["b"]},"views":3}']
    query = ListingQuery(select=(("recipients", "to"), ("nothing",)), limit=10, offset=2)
    assert json.loads(extrahorizon_listing.encode_page(mails, 7, query)) == {
        "page": {"total": 7, "offset": 2, "limit": 10},
        "data": [{"id": "m", "recipients": {"to": ["a"]}}],
    }
    assert json.loads(extrahorizon_listing.encode_page(mails, None, ListingQuery())) == {
        "page": {"offset": 0, "limit": 20},
        "data": [json.loads(mails[0])],
    }


def test_selection_applies_inside_lists_of_objects() -> None:
    mails = ['{"id":"m","content":{"a":{"b":1,"c":2},"items":[{"n":1,"x":2},3,{"x":4}]},"views":3}']

    def select_fields(*select: tuple[str, ...]) -> Any:
        return json.loads(extrahorizon_listing.encode_page(mails, None, ListingQuery(select=select)))["data"][0]

    assert select_fields(("content", "items", "n")) == {"id": "m", "content": {"items": [{"n": 1}, {}]}}
    both = select_fields(("content", "a", "b"), ("content", "a"))
    assert (
        both
        == select_fields(("content", "a"), ("content", "a", "b"))
        == {"id": "m", "content": {"a": {"b": 1, "c": 2}}}
    )
    assert select_fields(("content", "a", "b"), ("content", "a", "c")) == both
    assert select_fields(("views", "b")) == {"id": "m"}


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
def test_address_may_have_a_name(text: str, name: str, address: str) -> None:
    (box,) = extrahorizon.parse_request(request(recipients={"to": [text]})).visible_recipients.to
    assert (box.name, box.address) == (name, address)


@pytest.mark.parametrize(
    "text", ["A <a@example.com> b", "A <<a@example.com>", "A> <a@example.com>", "<>", "A <a@example.com", "", " "]
)
def test_malformed_mailbox_is_refused(text: str) -> None:
    assert str(refusal(request(recipients={"to": [text]}))).startswith("recipients.to[0]: ")


@pytest.mark.parametrize("unit", [" ", "<", "a ", " <", '"', "=?utf-8?q?", "a@", "\u00e4", "."])
def test_too_long_address_is_refused_before_it_is_parsed(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_too_long_header_is_refused_before_it_is_parsed(
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
def test_too_large_part_is_refused_before_it_is_decoded(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extrahorizon, "_decode_request", None)
    assert next(iter(fields)) in str(refusal(request(**fields)))


def test_body_is_accepted_beside_a_template_and_a_subject_is_not() -> None:
    command = extrahorizon.parse_request(request(template_id="welcome", subject=None, body="for readers without HTML"))
    assert (command.template, command.send.body) == ("welcome", "for readers without HTML")
    assert refusal(request(template_id="welcome", body=None)).code == 26


@pytest.mark.parametrize(
    ("status", "name"), [(429, "SERVICE_UNREACHABLE_EXCEPTION"), (408, ERROR_CODES[4][1]), (413, ERROR_CODES[26][1])]
)
def test_retryable_status_has_the_retryable_code(status: int, name: str) -> None:
    assert json.loads(extrahorizon.encode_error(status, "later", ""))["name"] == name


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("recipients", "subject", "body", "template_id", "content", "from", "reply_to", "attachments", "language")


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values), st.sampled_from(["", "to", "cc"]))
def test_any_object_is_parsed_or_refused_with_a_known_code(body: dict[str, Any], kind: str) -> None:
    if kind:
        body["recipients"] = {kind: ["a@example.com"]}
    assert outcome(json.dumps(body).encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    assert outcome(body)


def test_text_over_five_megabytes_is_refused() -> None:
    command = extrahorizon.parse_request(request(subject="s", body="b"))
    extrahorizon.check_size(command, "s", "x" * MAX_PART_BYTES)
    with pytest.raises(ExtraHorizonRefused, match="a text has 5242881 bytes; at most 5242880 can be sent"):
        extrahorizon.check_size(command, "s", "x" * (MAX_PART_BYTES + 1))
