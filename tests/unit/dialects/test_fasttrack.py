"""Fast Track's batches as bytes: what is read, what is refused and where, what is answered."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def the_wish(*messages: Any) -> FastTrackSendCommand:
    wishes, faults = read(*messages)
    assert faults == []
    return wishes[0]


def the_error(one: Any) -> str:
    wishes, faults = read(one)
    assert wishes == []
    return faults[0].error


def answer_if_all_are_taken(body: bytes) -> Any:
    wishes, faults = fasttrack.parse_batch(body)
    taken = [
        FastTrackItemSuccess(id=w.identity, email_id=ids.email_id("acme", "fasttrack", w.identity)) for w in wishes
    ]
    return json.loads(fasttrack.encode_response(taken, faults, []))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_answered_as_the_golden_pair_says(name: str) -> None:
    answered = answer_if_all_are_taken((GOLDEN / f"{name}.body.json").read_bytes())
    assert answered == json.loads((GOLDEN / f"{name}.answer.json").read_text())


def test_every_documented_field_arrives() -> None:
    wish = the_wish(message(amp_content="<html ⚡4email></html>"))
    assert wish == FastTrackSendCommand(
        index=0,
        identity="an-id",
        activity=wish.activity,
        brand="12",
        recipient="anna@example.com",
        subject="Welcome",
        html="<p>Hello</p>",
        amp="<html ⚡4email></html>",
        sender=Mailbox(address="news@example.com", name="Example"),
        reply_to=("support@example.com",),
    )
    assert json.loads(bytes(wish.activity)) == activity()


@pytest.mark.parametrize("absent", [{}, {"amp_content": None}, {"amp_content": ""}])
def test_amp_is_optional(absent: dict[str, Any]) -> None:
    assert the_wish(message(**absent)).amp == ""


def test_an_empty_reply_to_means_the_sender() -> None:
    assert the_wish(message(replyto_address="")).reply_to == ()


def test_the_activity_stays_byte_for_byte_as_it_came() -> None:
    body = (GOLDEN / "verbatim_activity.body.json").read_bytes()
    wish = fasttrack.parse_batch(body)[0][0]
    raw = bytes(wish.activity)
    assert raw in body
    assert b"123456789012345678901234567890" in raw
    assert b"1E400" in raw
    assert raw.count(b'"id"') == 2
    assert wish.identity == "big-2", "of two equal keys the last counts, here as in most readers"


def test_integers_beyond_64_bits_are_taken_in_the_documented_fields_too() -> None:
    wish = the_wish(message(activity=activity(brand_id=10**30, internal_user_id=-(10**40))))
    assert wish.brand == str(10**30)


def test_an_unknown_field_is_tolerated_and_kept_where_it_is_part_of_the_activity() -> None:
    wish = the_wish(message(activity=activity(new={"x": [1]}), other=5))
    assert json.loads(bytes(wish.activity))["new"] == {"x": [1]}


@pytest.mark.parametrize("field", sorted(activity()))
def test_each_field_of_the_activity_is_needed(field: str) -> None:
    given = activity()
    del given[field]
    assert the_error(message(activity=given)) == f"[0].activity.{field}: missing"


NEEDED = ["activity", "subject", "content", "email", "sender_name", "sender_address", "replyto_address"]
WRONG: dict[str, Any] = {"an int": 5, "a float": 1.5, "a bool": True, "null": None, "a list": [], "an object": {}}
INTEGERS = ["brand_id", "internal_user_id", "activity_id", "action_group_id", "action_id"]


@pytest.mark.parametrize("field", NEEDED)
def test_each_field_but_the_amp_is_needed(field: str) -> None:
    given = message()
    del given[field]
    assert the_error(given) == f"[0].{field}: missing"


def wrong_messages() -> dict[str, tuple[str, Any]]:
    """Every documented field with a value of every wrong type: where the error points to, and the message."""
    found: dict[str, tuple[str, Any]] = {}
    for what, value in (WRONG | {"a text": "5"}).items():
        for field in [*NEEDED, "amp_content"]:
            fits = what == "a text" if field != "activity" else False
            if not fits and not (field == "amp_content" and value is None):
                inside = field == "activity" and what == "an object"
                found[f"{field} is {what}"] = (f".{field}{'.id' if inside else ''}", message("bad", **{field: value}))
        for field in activity():
            fits = what == "an int" if field in INTEGERS else what == "a text"
            fits = fits or (field == "user_id" and what == "an int")
            if not fits:
                bad = message(activity=activity(**{"id": "bad", field: value}))
                found[f"activity.{field} is {what}"] = (f".activity.{field}", bad)
    return found


@pytest.mark.parametrize("name", wrong_messages())
def test_each_field_of_each_wrong_type_fails_its_message_and_no_other(name: str) -> None:
    where, bad = wrong_messages()[name]
    wishes, faults = read(message("before"), bad, message("after"))
    assert [wish.identity for wish in wishes] == ["before", "after"]
    [fault] = faults
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
def test_a_wrong_activity_is_named_by_its_path(changed: dict[str, Any], error: str) -> None:
    assert the_error(message(activity=activity(**changed))) == error


def test_an_activity_too_deep_for_readers_on_the_way_fails() -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    assert the_error(message(activity=activity(deep=deep))) == "[0].activity: nested more than 64 deep"
    assert read(message(activity=activity(wide=[[] for _ in range(1000)], text="[" * 1000)))[1] == []


@pytest.mark.parametrize("field", ["subject", "sender_name"])
@pytest.mark.parametrize(
    "break_", ["\r\n", "\n", "\r", "\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029", "\x7f"]
)
def test_nothing_that_ends_a_line_gets_into_a_header(field: str, break_: str) -> None:
    injected = f"Hello{break_}Bcc: everybody@example.com"
    assert the_error(message(**{field: injected})) == f"[0].{field}: a line break or control character"


@pytest.mark.parametrize("field", ["email", "sender_address", "replyto_address"])
def test_addresses_are_checked(field: str) -> None:
    assert the_error(message(**{field: "nobody"})) == f"[0].{field}: not an email address"


def test_a_bad_message_fails_alone_and_its_place_is_told() -> None:
    wishes, faults = read(message(), message(subject=1), message(activity=activity(id="other")))
    assert [wish.index for wish in wishes] == [0, 2]
    assert faults == [FastTrackItemError(id="an-id", error="[1].subject: expected str, got int")]


@pytest.mark.parametrize("one", [17, None, "text", [], {}, {"activity": 5}, {"activity": {"id": None}}])
def test_what_has_no_readable_id_fails_with_the_id_null(one: Any) -> None:
    assert read(one)[1][0].id is None


def test_an_id_of_the_wrong_type_goes_back_as_it_came() -> None:
    assert read(message(activity=activity(id=7)))[1] == [
        FastTrackItemError(id=7, error="[0].activity.id: expected str, got int")
    ]


def test_half_a_surrogate_pair_fails_its_message_alone() -> None:
    body = json.dumps([message(subject="\ud800"), message(), message(activity=activity(x="\udc00"))]).encode()
    wishes, faults = fasttrack.parse_batch(body)
    assert [wish.index for wish in wishes] == [1]
    said = "half a surrogate pair, such as \\ud800: no text can hold it"
    assert faults == [
        FastTrackItemError(id="an-id", error=f"[0]: {said}"),
        FastTrackItemError(id="an-id", error=f"[2]: {said}"),
    ]


@pytest.mark.parametrize("identity", ["\ud800", "a\udfffb", None])
def test_an_id_that_no_answer_can_hold_is_null(identity: Any) -> None:
    assert read(message(subject="\ud800", activity=activity(id=identity)))[1][0].id is None


def test_an_id_beside_half_a_surrogate_pair_goes_back_as_it_came() -> None:
    for identity in (5, "\N{GRINNING FACE}\\ud800"):
        assert read(message(subject="\ud800", activity=activity(id=identity)))[1][0].id == identity


@pytest.mark.parametrize("user_id", ["987654", 987654, 10**30, -1, "007"])
def test_a_user_id_is_text_or_integer_and_stays_as_it_came(user_id: Any) -> None:
    body = json.dumps([message(activity=activity(user_id=user_id))]).encode()
    [wish], faults = fasttrack.parse_batch(body)
    assert faults == []
    assert bytes(wish.activity) in body
    assert json.loads(bytes(wish.activity))["user_id"] == user_id


@pytest.mark.parametrize("name", ["messages", "", "data", 'a"[{,:'])
@pytest.mark.parametrize("beside", [{}, {"batch_id": 5, "tags": ["a", [1]], "none": [], "meta": {"list": [{"a": 1}]}}])
def test_the_only_array_of_objects_is_the_batch_whatever_its_name(name: str, beside: dict[str, Any]) -> None:
    messages = [message(), message(subject=1), message(activity=activity(id="\ud800")), 5]
    bare = fasttrack.parse_batch(json.dumps(messages).encode())
    for indent in (None, 2):
        wrapped = fasttrack.parse_batch(json.dumps({**beside, name: messages}, indent=indent).encode())
        assert [(wish.index, wish.identity) for wish in wrapped[0]] == [(0, "an-id")]
        assert wrapped[1] == bare[1]


def test_an_object_whose_only_array_is_empty_is_an_empty_batch() -> None:
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
def test_an_object_that_leaves_open_which_array_is_meant_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        fasttrack.parse_batch(body)


@pytest.mark.parametrize("body", [b"[" + b"0," * 1_000_000 + b"0]", b"[" + b"0," * 100_000 + b"0]"])
def test_a_body_of_too_many_values_is_refused_before_they_are_built(body: bytes) -> None:
    with pytest.raises(Refused, match="more than"):
        fasttrack.parse_batch(body)


def test_an_error_of_the_whole_batch_has_an_integer_code() -> None:
    assert json.loads(fasttrack.encode_error(401, "no API key", "X-Api-Key")) == {
        "error": "no API key",
        "code": 401,
        "where": "X-Api-Key",
    }


def test_half_a_surrogate_pair_beside_huge_numbers_is_no_matter() -> None:
    huge = "9" * 5_000
    body = f'[{{"x": {huge}, "y": 1e{huge}}}, "\\ud800", {json.dumps(message())}]'.encode()
    wishes, faults = fasttrack.parse_batch(body)
    assert ([wish.index for wish in wishes], len(faults)) == ([2], 2)


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
def test_a_body_that_is_no_array_is_refused_with_its_place(body: bytes, where: str) -> None:
    with pytest.raises(Refused) as refused:
        fasttrack.parse_batch(body)
    assert refused.value.where == where
    assert str(refused.value)


def test_the_answer_always_has_three_arrays() -> None:
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
def test_any_json_array_is_answered_one_for_one(batch: list[Any]) -> None:
    wishes, faults = fasttrack.parse_batch(json.dumps(batch).encode())
    assert len(wishes) + len(faults) == len(batch)
    answered = json.loads(
        fasttrack.encode_response([], faults, [fasttrack.item_error(wish, "later") for wish in wishes])
    )
    assert [len(answered[name]) for name in ("successful", "failed", "fatal")] == [0, len(faults), len(wishes)]


@settings(max_examples=300)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        wishes, faults = fasttrack.parse_batch(body)
    except Refused:
        return
    fasttrack.encode_response([], faults, [fasttrack.item_error(wish, "later") for wish in wishes])


@given(st.lists(MESSAGES | ACTIVITIES, min_size=1))
def test_what_is_taken_can_lie_on_the_log(batch: list[Any]) -> None:
    for wish in fasttrack.parse_batch(json.dumps(batch).encode())[0]:
        assert msgspec.json.decode(msgspec.json.encode(wish), type=FastTrackSendCommand) == wish
