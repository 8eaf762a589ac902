"""Tests of Fast Track's batches and answers."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.content.chunks import MAX_PART_BYTES
from pipeline.dialects import fasttrack
from pipeline.dialects.fasttrack import FastTrackItemError, FastTrackItemSuccess, FastTrackSendCommand
from pipeline.errors import Refused
from tests.support.fasttrack import activity, message
from topics import ids
from topics.requests import Mailbox

GOLDEN = Path(__file__).parents[2] / "golden" / "fasttrack"
NAMES = sorted(path.name.removesuffix(".answer.json") for path in GOLDEN.glob("*.answer.json"))


def read(*messages: Any) -> tuple[list[FastTrackSendCommand], list[FastTrackItemError]]:
    return fasttrack.parse_batch(json.dumps(messages).encode())


def parse_one(*messages: Any) -> FastTrackSendCommand:
    commands, errors = read(*messages)
    assert errors == []
    return commands[0]


def error_of(item: Any) -> str:
    commands, errors = read(item)
    assert commands == []
    return errors[0].error


def answer_if_all_are_accepted(body: bytes) -> Any:
    commands, errors = fasttrack.parse_batch(body)
    accepted = [
        FastTrackItemSuccess(id=command.identity, email_id=ids.email_id("acme", "fasttrack", command.identity))
        for command in commands
    ]
    return json.loads(fasttrack.encode_response(accepted, errors, []))


@pytest.mark.parametrize("name", NAMES)
def test_answer_equals_its_golden_file(name: str) -> None:
    answer = answer_if_all_are_accepted((GOLDEN / f"{name}.body.json").read_bytes())
    assert answer == json.loads((GOLDEN / f"{name}.answer.json").read_text())


def test_every_documented_field_is_parsed() -> None:
    command = parse_one(message(amp_content="<html ⚡4email></html>"))
    assert command == FastTrackSendCommand(
        index=0,
        identity="an-id",
        activity=command.activity,
        brand="12",
        recipient="anna@example.com",
        subject="Welcome",
        html="<p>Hello</p>",
        amp="<html ⚡4email></html>",
        sender=Mailbox(address="news@example.com", name="Example"),
        reply_to=("support@example.com",),
    )
    assert json.loads(bytes(command.activity)) == activity()


@pytest.mark.parametrize("absent", [{}, {"amp_content": None}, {"amp_content": ""}])
def test_amp_is_optional(absent: dict[str, Any]) -> None:
    assert parse_one(message(**absent)).amp == ""


def test_empty_reply_to_means_the_sender() -> None:
    assert parse_one(message(replyto_address="")).reply_to == ()


def test_activity_bytes_are_unchanged() -> None:
    body = (GOLDEN / "verbatim_activity.body.json").read_bytes()
    command = fasttrack.parse_batch(body)[0][0]
    raw = bytes(command.activity)
    assert raw in body
    assert b"123456789012345678901234567890" in raw
    assert b"1E400" in raw
    assert raw.count(b'"id"') == 2
    assert command.identity == "big-2", "of two equal keys the last counts, here as in most readers"


def test_integers_beyond_64_bits_are_accepted_in_documented_fields() -> None:
    command = parse_one(message(activity=activity(brand_id=10**30, internal_user_id=-(10**40))))
    assert command.brand == str(10**30)


def test_unknown_fields_are_ignored_and_those_of_the_activity_kept() -> None:
    command = parse_one(message(activity=activity(new={"x": [1]}), other=5))
    assert json.loads(bytes(command.activity))["new"] == {"x": [1]}


@pytest.mark.parametrize("field", sorted(activity()))
def test_each_field_of_the_activity_is_required(field: str) -> None:
    given = activity()
    del given[field]
    assert error_of(message(activity=given)) == f"[0].activity.{field}: missing"


NEEDED = ["activity", "subject", "content", "email", "sender_name", "sender_address", "replyto_address"]
WRONG: dict[str, Any] = {"an int": 5, "a float": 1.5, "a bool": True, "null": None, "a list": [], "an object": {}}
INTEGERS = ["brand_id", "internal_user_id", "activity_id", "action_group_id", "action_id"]


@pytest.mark.parametrize("field", NEEDED)
def test_each_field_except_amp_is_required(field: str) -> None:
    given = message()
    del given[field]
    assert error_of(given) == f"[0].{field}: missing"


def wrong_messages() -> dict[str, tuple[str, Any]]:
    """Return messages with one field of a wrong type, and the path in the error of each."""
    messages: dict[str, tuple[str, Any]] = {}
    for type_name, value in (WRONG | {"a text": "5"}).items():
        for field in [*NEEDED, "amp_content"]:
            is_valid = type_name == "a text" if field != "activity" else False
            if not is_valid and not (field == "amp_content" and value is None):
                is_object = field == "activity" and type_name == "an object"
                messages[f"{field} is {type_name}"] = (
                    f".{field}{'.id' if is_object else ''}",
                    message("bad", **{field: value}),
                )
        for field in activity():
            is_valid = type_name == "an int" if field in INTEGERS else type_name == "a text"
            is_valid = is_valid or (field == "user_id" and type_name == "an int")
            if not is_valid:
                invalid = message(activity=activity(**{"id": "bad", field: value}))
                messages[f"activity.{field} is {type_name}"] = (f".activity.{field}", invalid)
    return messages


@pytest.mark.parametrize("name", wrong_messages())
def test_field_of_a_wrong_type_fails_only_its_message(name: str) -> None:
    where, bad = wrong_messages()[name]
    commands, errors = read(message("before"), bad, message("after"))
    assert [command.identity for command in commands] == ["before", "after"]
    [fault] = errors
    assert fault.error.startswith(f"[1]{where}: ")
    assert "Traceback" not in fault.error


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"brand_id": "12"}, "[0].activity.brand_id: expected int, got str"),
        ({"brand_id": 1.5}, "[0].activity.brand_id: expected int, got float"),
        ({"brand_id": True}, "[0].activity.brand_id: expected int, got bool"),
        ({"user_id": 987654.0}, "[0].activity.user_id: expected int | str, got float"),
        ({"trigger_hash": None}, "[0].activity.trigger_hash: expected str, got null"),
        ({"id": ""}, "[0].activity.id: expected str of length >= 1"),
        ({"id": "x" * 501}, "[0].activity.id: expected str of length <= 500"),
        ({"id": "x\u0000"}, "[0].activity.id: a control character"),
        ({"note": "x" * 65_536}, "[0].activity: more than 65536 bytes"),
    ],
)
def test_error_names_the_path_in_the_activity(changed: dict[str, Any], error: str) -> None:
    assert error_of(message(activity=activity(**changed))) == error


def test_too_deep_activity_fails() -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    assert error_of(message(activity=activity(deep=deep))) == "[0].activity: nested more than 64 deep"
    assert read(message(activity=activity(wide=[[] for _ in range(1000)], text="[" * 1000)))[1] == []


@pytest.mark.parametrize("field", ["subject", "sender_name"])
@pytest.mark.parametrize(
    "break_", ["\r\n", "\n", "\r", "\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x7f"]
)
def test_line_breaks_in_headers_are_refused(field: str, break_: str) -> None:
    injected = f"Hello{break_}Bcc: everybody@example.com"
    assert error_of(message(**{field: injected})) == f"[0].{field}: a line break or control character"


@pytest.mark.parametrize("field", ["email", "sender_address", "replyto_address"])
def test_addresses_are_validated(field: str) -> None:
    assert error_of(message(**{field: "nobody"})) == f"[0].{field}: not an email address"


def test_invalid_message_fails_alone_and_the_error_names_its_index() -> None:
    commands, errors = read(message(), message(subject=1), message(activity=activity(id="other")))
    assert [command.index for command in commands] == [0, 2]
    assert errors == [FastTrackItemError(id="an-id", error="[1].subject: expected str, got int")]


@pytest.mark.parametrize("item", [17, None, "text", [], {}, {"activity": 5}, {"activity": {"id": None}}])
def test_message_without_a_readable_id_fails_with_id_null(item: Any) -> None:
    assert read(item)[1][0].id is None


def test_id_of_the_wrong_type_is_returned_unchanged() -> None:
    assert read(message(activity=activity(id=7)))[1] == [
        FastTrackItemError(id=7, error="[0].activity.id: expected str, got int")
    ]


def test_half_a_surrogate_pair_fails_only_its_message() -> None:
    body = json.dumps([message(subject="\ud800"), message(), message(activity=activity(x="\udc00"))]).encode()
    commands, errors = fasttrack.parse_batch(body)
    assert [command.index for command in commands] == [1]
    problem = "half a surrogate pair, such as \\ud800: no text can hold it"
    assert errors == [
        FastTrackItemError(id="an-id", error=f"[0]: {problem}"),
        FastTrackItemError(id="an-id", error=f"[2]: {problem}"),
    ]


@pytest.mark.parametrize("identity", ["\ud800", "a\udfffb", None])
def test_id_with_half_a_surrogate_pair_is_null(identity: Any) -> None:
    assert read(message(subject="\ud800", activity=activity(id=identity)))[1][0].id is None


def test_id_beside_half_a_surrogate_pair_is_returned_unchanged() -> None:
    for identity in (5, "\N{GRINNING FACE}\\ud800"):
        assert read(message(subject="\ud800", activity=activity(id=identity)))[1][0].id == identity


@pytest.mark.parametrize("user_id", ["987654", 987654, 10**30, -1, "007"])
def test_user_id_is_text_or_integer_and_unchanged(user_id: Any) -> None:
    body = json.dumps([message(activity=activity(user_id=user_id))]).encode()
    [command], errors = fasttrack.parse_batch(body)
    assert errors == []
    assert bytes(command.activity) in body
    assert json.loads(bytes(command.activity))["user_id"] == user_id


@pytest.mark.parametrize("name", ["messages", "", "data", 'a"[{,:'])
@pytest.mark.parametrize("beside", [{}, {"batch_id": 5, "tags": ["a", [1]], "none": [], "meta": {"list": [{"a": 1}]}}])
def test_only_array_of_objects_is_the_batch_under_any_name(name: str, beside: dict[str, Any]) -> None:
    messages = [message(), message(subject=1), message(activity=activity(id="\ud800")), 5]
    bare = fasttrack.parse_batch(json.dumps(messages).encode())
    for indent in (None, 2):
        wrapped = fasttrack.parse_batch(json.dumps({**beside, name: messages}, indent=indent).encode())
        assert [(command.index, command.identity) for command in wrapped[0]] == [(0, "an-id")]
        assert wrapped[1] == bare[1]


def test_object_with_only_an_empty_array_is_an_empty_batch() -> None:
    assert fasttrack.parse_batch(b'{"messages": [ ]}') == ([], [])


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": [{}], "b": [{}]}',
        b'{"a": [], "b": []}',
        b'{"a": [1]}',
        b'{"a": {"b": [{}]}}',
        b'{"a": [{}]} x',
        b'{"a": [{}]',
        b'{"a" [{}]}',
        b'{"\xff": [{}]}',
        b'{"a":' * 100_000,
        b"{" + b",".join(b'"%d":0' % number for number in range(101)) + b"}",
    ],
)
def test_object_with_an_ambiguous_array_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        fasttrack.parse_batch(body)


@pytest.mark.parametrize("body", [b"[" + b"0," * 1_000_000 + b"0]", b"[" + b"0," * 100_000 + b"0]"])
def test_body_with_too_many_values_is_refused_before_it_is_decoded(body: bytes) -> None:
    with pytest.raises(Refused, match="more than"):
        fasttrack.parse_batch(body)


def test_error_of_the_whole_batch_has_an_integer_code() -> None:
    assert json.loads(fasttrack.encode_error(401, "no API key", "X-Api-Key")) == {
        "error": "no API key",
        "code": 401,
        "where": "X-Api-Key",
    }


def test_half_a_surrogate_pair_beside_huge_numbers_fails_only_its_message() -> None:
    huge = "9" * 5_000
    body = f'[{{"x": {huge}, "y": 1e{huge}}}, "\\ud800", {json.dumps(message())}]'.encode()
    commands, errors = fasttrack.parse_batch(body)
    assert ([command.index for command in commands], len(errors)) == ([2], 2)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "end of body"),
        (b"{}", "body"),
        (b"5", "body"),
        (b"[1,]", "byte 3"),
        (b"[1 2]", "byte 3"),
        (b"[1]]", "byte 4"),
        (b'["\\ud800"', "end of body"),
        (b'["\\ud800"] x', "byte 12"),
        (b'["\\ud800", NaN]', "byte 11"),
        (b'["\xff"]', "byte 2"),
        (b"\xff", "byte 0"),
        (b"[NaN]", "byte 1"),
        (b"[" * 100_000, "body"),
        (b'["\\ud800",' + b"[" * 100_000, "body"),
        (b'[{"a":' * 100_000, "body"),
    ],
)
def test_body_that_is_no_array_is_refused_with_the_place(body: bytes, where: str) -> None:
    with pytest.raises(Refused) as refused:
        fasttrack.parse_batch(body)
    assert refused.value.where == where
    assert str(refused.value)


def test_answer_always_has_three_arrays() -> None:
    assert fasttrack.encode_response([], [], []) == b'{"successful":[],"failed":[],"fatal":[]}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FIELDS = st.sampled_from([*message(), "amp_content", "other"])
MESSAGES = st.dictionaries(FIELDS, JSON, max_size=2).map(lambda changed: message(**changed))
ACTIVITIES = st.dictionaries(st.sampled_from([*activity(), "other"]), JSON, max_size=2).map(
    lambda changed: message(activity=activity(**changed))
)


@settings(max_examples=300)
@given(st.lists(JSON | MESSAGES | ACTIVITIES))
def test_every_item_of_a_json_array_is_answered(batch: list[Any]) -> None:
    commands, errors = fasttrack.parse_batch(json.dumps(batch).encode())
    assert len(commands) + len(errors) == len(batch)
    answer = json.loads(
        fasttrack.encode_response([], errors, [fasttrack.item_error(command, "later") for command in commands])
    )
    assert [len(answer[name]) for name in ("successful", "failed", "fatal")] == [0, len(errors), len(commands)]


@settings(max_examples=300)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    try:
        commands, errors = fasttrack.parse_batch(body)
    except Refused:
        return
    fasttrack.encode_response([], errors, [fasttrack.item_error(command, "later") for command in commands])


@given(st.lists(MESSAGES | ACTIVITIES, min_size=1))
def test_accepted_messages_can_be_encoded_for_the_log(batch: list[Any]) -> None:
    for command in fasttrack.parse_batch(json.dumps(batch).encode())[0]:
        assert msgspec.json.decode(msgspec.json.encode(command), type=FastTrackSendCommand) == command


def test_over_long_message_fails_alone_with_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fasttrack, "MAX_MESSAGE_BYTES", 2_000)
    long = message(content="x" * 2_000, activity=activity(id="long"))
    commands, errors = read(message(), long)
    assert [command.identity for command in commands] == ["an-id"]
    size = len(json.dumps(long))
    assert errors == [FastTrackItemError(id="long", error=f"[1]: has {size} bytes; at most 2000 can be taken")]


def test_message_that_escapes_the_largest_parts_is_not_over_long() -> None:
    part = "\N{CYRILLIC SMALL LETTER BE}" * (MAX_PART_BYTES // 2)
    assert len(json.dumps(message(content=part, amp_content=part))) < fasttrack.MAX_MESSAGE_BYTES
