"""Tests of reading the message that follows DATA, in pieces of any size."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.smtp_data import EndlessMessage, read_message

COMMAND_AFTER = b"QUIT\r\n"
LINE_PARTS = st.sampled_from([b".", b"..", b"\r", b"\n", b"\r\n", b"x", b"text.", b".\n", b"\r.", b"y" * 40])


def read_line_by_line(wire: bytes) -> bytes:
    """Return the message as RFC 5321 reads it: line by line, without the first dot of each line."""
    message = b""
    while True:
        line, _, wire = wire.partition(b"\r\n")
        if line == b".":
            return message
        message += line.removeprefix(b".") + b"\r\n"


async def receive(
    wire: bytes, *, step: int = 1_000, limit: int = 1_001, max_kept_bytes: int = 10_000, max_bytes: int = 10_000
) -> tuple[bytes, int, bytes]:
    """Return the message, its size, and what was left to read after it."""
    reader = asyncio.StreamReader(limit=limit)
    reading = asyncio.create_task(read_message(reader, max_kept_bytes=max_kept_bytes, max_bytes=max_bytes))
    for start in range(0, len(wire), step):
        reader.feed_data(wire[start : start + step])
        await asyncio.sleep(0)
    reader.feed_eof()
    message, size = await reading
    return message, size, await reader.read()


@given(st.lists(LINE_PARTS), st.integers(1, 60), st.integers(3, 50))
async def test_message_is_what_reading_line_by_line_gives(parts: list[bytes], step: int, limit: int) -> None:
    body = b"".join(parts)
    wire = body + b"\r\n.\r\n" + COMMAND_AFTER
    expected = read_line_by_line(wire)
    message, size, rest = await receive(wire, step=step, limit=limit)
    assert (message, size) == (expected, len(expected))
    assert rest.endswith(COMMAND_AFTER)


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b".\r\n", b""),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"a\r\n..b\r\n.\r\n", b"a\r\n.b\r\n"),
        (b"a.\r\nb\r\n.\r\n", b"a.\r\nb\r\n"),
        (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n"),
        (b"a\r\n.\nb\r.\r\nc\r\n.\r\n", b"a\r\n\nb\r.\r\nc\r\n"),
    ],
)
async def test_only_a_dot_between_two_line_ends_ends_the_message(wire: bytes, message: bytes) -> None:
    for step in (1, 2, 3, 100):
        assert await receive(wire + COMMAND_AFTER, step=step) == (message, len(message), COMMAND_AFTER)


async def test_only_the_first_bytes_are_kept_and_all_are_counted() -> None:
    message, size, _ = await receive(b"x" * 5_000 + b"\r\n.\r\n", max_kept_bytes=100)
    assert (message, size) == (b"x" * 100, 5_002)


async def test_endless_message_is_given_up() -> None:
    with pytest.raises(EndlessMessage):
        await receive(b"x" * 20_000)
