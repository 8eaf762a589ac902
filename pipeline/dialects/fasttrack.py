"""Parse batches of Fast Track's operator email API and encode the answers. Pure.

`pipeline.gateway.routes.fasttrack` calls it. Our interpretation where Fast Track's document is silent:

- The body is a JSON array, or an object with exactly one array of objects, under any name.
- The answer always has all three arrays.
- A ``failed`` message whose ``activity.id`` can't be read has the id null; its index is in the error.
- Unknown fields are ignored, except that those inside ``activity`` are kept.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from pipeline.content.addresses import address_problem, header_text_problem
from pipeline.dialects.raw_json import (
    LONE_SURROGATE_PROBLEM,
    check_value_count,
    member_values,
    nesting_depth,
    read_despite_lone_surrogate,
    refusal_from_msgspec,
    split_array,
)
from pipeline.errors import Refused
from topics.requests import Mailbox

DIALECT: Final = "fasttrack"
ACTIVITY_MAX_BYTES: Final = 65_536
"""Bytes of one ``activity``, which is stored in every record of the email, several times in some."""
ACTIVITY_MAX_DEPTH: Final = 64
"""Levels of nesting of one ``activity``; every JSON decoder that reads it later accepts as many."""
MAX_MESSAGES: Final = 100_000
"""Messages of one request. Each one over the tenant's batch maximum gets its own error, up to this number."""
MAX_MESSAGE_BYTES: Final = 32_000_000
"""Bytes of one message's JSON. The largest content that can be sent, two parts of 5 MiB, fits even if each of its
characters is escaped as ``\\u0431``; decoding more would hold the interpreter's lock for long."""
MAX_WRAPPER_MEMBERS: Final = 100
_CONTROL_CHAR: Final = re.compile(r"[\x00-\x1f\x7f]")


class FastTrackActivity(msgspec.Struct, frozen=True):
    """The data that Fast Track gets back, unchanged, with every conversion."""

    id: Annotated[str, Meta(min_length=1, max_length=500, description="A unique identifier of the Email")]
    brand_id: Annotated[int, Meta(description="The unique identifier of the brand on Fast Track")]
    # A string by its table of requests, an integer by its table of conversions.
    user_id: Annotated[str | int, Meta(description="The unique identifier of the player")]
    internal_user_id: Annotated[int, Meta(description="The unique internal identifier of the player")]
    activity_id: Annotated[int, Meta(description="The unique identifier of the activity setup in Fast Track")]
    action_group_id: Annotated[int, Meta(description="The action group which the Email originates from")]
    trigger_hash: Annotated[str, Meta(description="Trigger hash")]
    action_id: Annotated[int, Meta(description="The unique identifier of the individual action from Fast Track")]


class FastTrackMessage(msgspec.Struct, frozen=True):
    """One message of a batch."""

    # Kept as bytes, because it must go back to Fast Track unchanged.
    activity: msgspec.Raw
    subject: Annotated[str, Meta(description="The subject line of the Email")]
    content: Annotated[str, Meta(min_length=1, description="The content of the Email, as HTML")]
    email: Annotated[str, Meta(description="The email address of the player")]
    sender_name: Annotated[str, Meta(description="The sender name configured in Fast Track; may be empty")]
    sender_address: Annotated[str, Meta(description="The sender address configured in Fast Track")]
    replyto_address: Annotated[str, Meta(description="The reply to address; empty: replies go to the sender")]
    amp_content: Annotated[str | None, Meta(description="The content of the Email, as AMP")] = None


class FastTrackSendCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A valid message."""

    index: int
    identity: str
    activity: msgspec.Raw
    brand: str
    recipient: str
    subject: str
    html: str
    amp: str
    sender: Mailbox
    reply_to: tuple[str, ...]


class FastTrackItemError(msgspec.Struct, frozen=True, kw_only=True):
    """A message that wasn't accepted; the error begins with its path in the batch."""

    id: str | int | None
    error: str


class FastTrackItemSuccess(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was accepted."""

    id: str
    email_id: str


class FastTrackBatchResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. Successful: accepted. Failed: never sent, skip it. Fatal: not accepted now, send it again."""

    successful: list[FastTrackItemSuccess]
    failed: list[FastTrackItemError]
    fatal: list[FastTrackItemError]


class _ActivityIdOnly(msgspec.Struct):
    """The part of an activity that an error needs."""

    id: str | int


class _MessageIdOnly(msgspec.Struct):
    """The part of a message that an error needs."""

    activity: _ActivityIdOnly


_decode_message = msgspec.json.Decoder(FastTrackMessage).decode
_decode_activity = msgspec.json.Decoder(FastTrackActivity).decode
_decode_id_only = msgspec.json.Decoder(_MessageIdOnly).decode
_encode = msgspec.json.Encoder().encode


def parse_batch(body: bytes) -> tuple[list[FastTrackSendCommand], list[FastTrackItemError]]:
    """Return the send commands of a batch in its order, and an error for each message that can't be sent.

    Raise Refused for a body that is neither a JSON array nor an object with one array of objects, and for one with more
    than MAX_MESSAGES messages.
    """
    check_value_count(body)
    messages = _items_of_object(body) if body.lstrip()[:1] == b"{" else split_array(body)
    if len(messages) > MAX_MESSAGES:
        raise Refused(f"more than {MAX_MESSAGES} messages", "body")
    commands: list[FastTrackSendCommand] = []
    errors: list[FastTrackItemError] = []
    for index, raw in enumerate(messages):
        try:
            commands.append(_parse_message(index, raw))
        except Refused as refused:
            errors.append(FastTrackItemError(id=_id_of(raw), error=f"[{index}]{refused.where}: {refused}"))
    return commands, errors


def encode_response(
    successful: Iterable[FastTrackItemSuccess],
    failed: Iterable[FastTrackItemError],
    fatal: Iterable[FastTrackItemError],
) -> bytes:
    """Return the answer's body, which always has all three arrays."""
    return _encode(FastTrackBatchResponse(successful=list(successful), failed=list(failed), fatal=list(fatal)))


def item_error(command: FastTrackSendCommand, error: str, where: str = "") -> FastTrackItemError:
    """Return the error of a valid message that isn't accepted: a conflict, a limit, or an unavailable log."""
    return FastTrackItemError(id=command.identity, error=f"[{command.index}]{where}: {error}")


def encode_error(status: int, error: str, where: str = "") -> bytes:
    """Return the body of an answer that concerns the whole batch; the code is the HTTP status."""
    return _encode({"error": error, "code": status, "where": where})


def _items_of_object(body: bytes) -> Sequence[bytes | msgspec.Raw]:
    """Return the items of the only array of objects among an object's members; else of the only empty array."""
    arrays = [split_array(value) for value in member_values(body, MAX_WRAPPER_MEMBERS) if value.startswith(b"[")]
    object_arrays = [items for items in arrays if any(bytes(memoryview(item)[:1]) == b"{" for item in items)]
    candidates = object_arrays or [items for items in arrays if not items]
    if len(candidates) != 1:
        raise Refused(f"expected array, or an object with one array of objects; there are {len(candidates)}", "body")
    return candidates[0]


def _parse_message(index: int, raw: bytes | msgspec.Raw) -> FastTrackSendCommand:
    """Return the command of one message. Raise Refused with the path inside the message."""
    if (size := len(raw)) > MAX_MESSAGE_BYTES:
        raise Refused(f"has {size} bytes; at most {MAX_MESSAGE_BYTES} can be taken")
    message: FastTrackMessage = _decode(_decode_message, raw, "")
    activity: FastTrackActivity = _decode(_decode_activity, message.activity, ".activity")
    _check(activity, message)
    return FastTrackSendCommand(
        index=index,
        identity=activity.id,
        activity=message.activity,
        brand=str(activity.brand_id),
        recipient=message.email,
        subject=message.subject,
        html=message.content,
        amp=message.amp_content or "",
        sender=Mailbox(address=message.sender_address, name=message.sender_name),
        reply_to=(message.replyto_address,) if message.replyto_address else (),
    )


def _decode(decode: Any, raw: bytes | msgspec.Raw, where: str) -> Any:
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise refusal_from_msgspec(str(error), where) from None
    except msgspec.DecodeError:
        # The batch was split by JSON's grammar, so nothing else can be malformed in an item.
        raise Refused(LONE_SURROGATE_PROBLEM, where) from None
    except RecursionError:
        raise Refused("nested too deeply", where) from None


def _check(activity: FastTrackActivity, message: FastTrackMessage) -> None:
    raw = bytes(message.activity)
    _refuse(f"more than {ACTIVITY_MAX_BYTES} bytes" if len(raw) > ACTIVITY_MAX_BYTES else None, ".activity")
    _refuse(
        f"nested more than {ACTIVITY_MAX_DEPTH} deep"
        if nesting_depth(raw, ACTIVITY_MAX_DEPTH) > ACTIVITY_MAX_DEPTH
        else None,
        ".activity",
    )
    _refuse("a control character" if _CONTROL_CHAR.search(activity.id) else None, ".activity.id")
    _refuse(address_problem(message.email), ".email")
    _refuse(header_text_problem(message.subject), ".subject")
    _refuse(header_text_problem(message.sender_name), ".sender_name")
    _refuse(address_problem(message.sender_address), ".sender_address")
    if message.replyto_address:
        _refuse(address_problem(message.replyto_address), ".replyto_address")


def _refuse(problem: str | None, where: str) -> None:
    if problem is not None:
        raise Refused(problem, where)


def _id_of(raw: bytes | msgspec.Raw) -> str | int | None:
    """Return the id of a refused message, which tells Fast Track to skip it; None if it can't be read."""
    try:
        return _decode_id_only(raw).activity.id
    except (msgspec.ValidationError, RecursionError):
        return None
    except msgspec.DecodeError:
        return read_despite_lone_surrogate(lambda json_bytes: _decode_id_only(json_bytes).activity.id, bytes(raw))
