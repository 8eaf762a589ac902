"""A message's content -> chunks for `message-contents` and back: MessagePack, zstd, cut, verified by SHA-256."""

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec
import zstandard

from pipeline.errors import Refused, Unrecognised
from topics.contents import ContentChunk, MessageContent
from topics.registry import MAX_RECORD_BYTES

CHUNK_MAX_BYTES: Final = MAX_RECORD_BYTES - 1_000
"""The rest is for the chunk's own fields: the whole record stays below the limit."""

MAX_CONTENT_BYTES: Final = 128_000_000
"""Uncompressed. A few bytes of zstd can claim gigabytes; nobody's email is larger than this."""
MAX_PART_BYTES: Final = 5 * 1024 * 1024
"""Bytes of UTF-8 of each of html, text and amp. Sending services take no more (Postmark 5 MB each), mailbox providers
show a tenth of it, and whoever writes the message touches each byte a dozen times."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MessageContent).decode


def make_compressor() -> zstandard.ZstdCompressor:
    """For many contents, one after the other: making one costs as much as compressing a small content."""
    return zstandard.ZstdCompressor(write_checksum=False, write_content_size=True)


def pack_content(
    content: MessageContent, content_id: str, by: zstandard.ZstdCompressor | None = None
) -> tuple[list[ContentChunk], str]:
    """The content's chunks, in order, and the hex SHA-256 of them put together.

    Raises Refused for a part over MAX_PART_BYTES, and for a content over MAX_CONTENT_BYTES: nobody could unpack it.
    """
    check_part_sizes(content)
    plain = _encode(content)
    if len(plain) > MAX_CONTENT_BYTES:
        raise Refused(f"a content of {len(plain)} bytes; at most {MAX_CONTENT_BYTES} can be taken")
    whole = (by or make_compressor()).compress(plain)
    pieces = [whole[start : start + CHUNK_MAX_BYTES] for start in range(0, len(whole), CHUNK_MAX_BYTES)]
    chunks = [
        ContentChunk(content_id=content_id, index=index, total=len(pieces), data=piece)
        for index, piece in enumerate(pieces)
    ]
    return chunks, hashlib.sha256(whole).hexdigest()


def check_part_sizes(content: MessageContent) -> None:
    """Raise Refused where a part is over MAX_PART_BYTES."""
    for name in ("html", "text", "amp"):
        size = len(getattr(content, name).encode("utf-8", "surrogatepass"))
        if size > MAX_PART_BYTES:
            raise Refused(f"the {name} part has {size} bytes; at most {MAX_PART_BYTES} can be taken", name)


def unpack_content(chunks: Sequence[ContentChunk], sha256: str) -> MessageContent:
    """The content whose chunks these are; order doesn't matter, a chunk read twice neither.

    Raises Unrecognised for a missing or foreign chunk, another hash, or bytes that are no content.
    """
    whole = _join(chunks)
    if hashlib.sha256(whole).hexdigest() != sha256:
        raise Unrecognised("the content is not the one the request points to: its SHA-256 differs")
    try:
        return _decode(_inflate(whole))
    except (msgspec.MsgspecError, zstandard.ZstdError, UnicodeDecodeError) as error:
        raise Unrecognised(f"the content can't be read: {error}") from error


def unpacked_bytes(chunks: Sequence[ContentChunk]) -> int:
    """Return how many bytes the first chunk claims that all of them unpack to; 0 where it claims nothing."""
    try:
        return max(0, zstandard.frame_content_size(chunks[0].data)) if chunks else 0
    except zstandard.ZstdError:
        return 0


def _join(chunks: Sequence[ContentChunk]) -> bytes:
    if len({(chunk.content_id, chunk.total) for chunk in chunks}) != 1:
        raise Unrecognised("no chunks, or chunks of different contents")
    by_index = {chunk.index: chunk.data for chunk in chunks}
    total = chunks[0].total
    if sorted(by_index) != list(range(total)):
        raise Unrecognised(f"{len(by_index)} of {total} chunks: some are missing")
    return b"".join(by_index[index] for index in range(total))


def _inflate(whole: bytes) -> bytes:
    # The frame's header says how much will come out (our pack always writes it), and the
    # decompressor allocates by it: so it is looked at first. -1 is a frame that doesn't say.
    size = zstandard.frame_content_size(whole)
    if not 0 <= size <= MAX_CONTENT_BYTES:
        raise Unrecognised(f"a content that claims {size} bytes; at most {MAX_CONTENT_BYTES} are unpacked")
    return zstandard.ZstdDecompressor().decompress(whole, allow_extra_data=False)
