"""Tests of packing contents into chunks and unpacking them."""

import hashlib
import random

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.content import chunks
from pipeline.errors import Refused, Unrecognised
from topics.codec import encode
from topics.contents import Attachment, ContentChunk, MessageContent
from topics.registry import MAX_RECORD_BYTES, MESSAGE_CONTENTS

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def incompressible(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def large() -> MessageContent:
    attachment = Attachment(filename="a.bin", media_type="application/octet-stream", data=incompressible(2_500_000))
    return MessageContent(html="<p>hej</p>", attachments=(attachment,))


def packed_bytes(plain: bytes, *, says_its_size: bool = True) -> tuple[list[ContentChunk], str]:
    packed = zstandard.ZstdCompressor(write_content_size=says_its_size).compress(plain)
    chunk = ContentChunk(content_id="c", index=0, total=1, data=packed)
    return [chunk], hashlib.sha256(packed).hexdigest()


@given(TEXT, TEXT, TEXT, st.binary(), TEXT)
def test_packed_content_is_unpacked_equal(html: str, text: str, amp: str, data: bytes, header: str) -> None:
    content = MessageContent(
        html=html,
        text=text,
        amp=amp,
        attachments=(Attachment(filename="f", media_type="m/t", data=data),),
        headers=(("X-Header", header),),
    )
    assert chunks.unpack_content(*chunks.pack_content(content, "an-id")) == content


def test_large_content_is_split_into_records_below_the_limit() -> None:
    pieces, digest = chunks.pack_content(large(), "0192f0c4-7a3e-7c1a-8f00-000000000000")
    assert len(pieces) == 3
    assert [(piece.index, piece.total) for piece in pieces] == [(0, 3), (1, 3), (2, 3)]
    assert max(len(encode(MESSAGE_CONTENTS, piece)) for piece in pieces) <= MAX_RECORD_BYTES
    assert chunks.unpack_content(pieces, digest) == large()


def test_unordered_and_repeated_chunks_give_the_same_content() -> None:
    pieces, digest = chunks.pack_content(large(), "c")
    assert chunks.unpack_content([pieces[2], pieces[0], pieces[1], pieces[0]], digest) == large()


@pytest.mark.parametrize("kept", [[], [0, 1], [1, 2], [0, 2]])
def test_missing_chunk_is_unrecognised(kept: list[int]) -> None:
    pieces, digest = chunks.pack_content(large(), "c")
    with pytest.raises(Unrecognised, match="chunks"):
        chunks.unpack_content([pieces[index] for index in kept], digest)


def test_chunk_of_another_content_is_unrecognised() -> None:
    pieces, digest = chunks.pack_content(large(), "c")
    stranger = msgspec.structs.replace(pieces[1], content_id="d")
    with pytest.raises(Unrecognised, match="different contents"):
        chunks.unpack_content([pieces[0], stranger, pieces[2]], digest)


def test_changed_byte_is_unrecognised() -> None:
    pieces, digest = chunks.pack_content(large(), "c")
    changed = msgspec.structs.replace(pieces[1], data=b"\x00" + pieces[1].data[1:])
    with pytest.raises(Unrecognised, match="SHA-256"):
        chunks.unpack_content([pieces[0], changed, pieces[2]], digest)


def test_compression_bomb_is_not_unpacked() -> None:
    bomb = packed_bytes(b"\x00" * (chunks.MAX_CONTENT_BYTES + 1))
    assert len(bomb[0][0].data) < 20_000
    with pytest.raises(Unrecognised, match="at most"):
        chunks.unpack_content(*bomb)


def test_frame_without_its_size_is_not_unpacked() -> None:
    with pytest.raises(Unrecognised, match="claims -1"):
        chunks.unpack_content(*packed_bytes(b"plain", says_its_size=False))


@pytest.mark.parametrize("plain", [b"", b"\xc1", b"\x80 and more", msgspec.msgpack.encode({"html": 1})])
def test_bytes_that_are_no_content_are_unrecognised(plain: bytes) -> None:
    with pytest.raises(Unrecognised):
        chunks.unpack_content(*packed_bytes(plain))


def test_bytes_that_are_no_zstd_are_unrecognised() -> None:
    data = b"not zstd at all"
    chunk = ContentChunk(content_id="c", index=0, total=1, data=data)
    with pytest.raises(Unrecognised):
        chunks.unpack_content([chunk], hashlib.sha256(data).hexdigest())


def test_content_that_could_not_be_unpacked_is_refused() -> None:
    with pytest.raises(Refused, match="at most"):
        chunks.pack_content(MessageContent(html="x" * (chunks.MAX_CONTENT_BYTES + 1)), "c")


@pytest.mark.parametrize("part", ["html", "text", "amp"])
def test_part_of_five_megabytes_is_packed_and_one_byte_more_is_refused(part: str) -> None:
    fits = "é" * (chunks.MAX_PART_BYTES // 2)
    content = msgspec.structs.replace(MessageContent(html="x"), **{part: fits})
    assert chunks.unpack_content(*chunks.pack_content(content, "c")) == content
    with pytest.raises(Refused, match=f"the {part} part has 5242881 bytes; at most 5242880 can be taken"):
        chunks.pack_content(msgspec.structs.replace(content, **{part: f"{fits}x"}), "c")
