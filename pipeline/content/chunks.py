"""Pack a message's content into chunks for the topic `message-contents`, and unpack it.

The gateway's intake packs, the dispatcher unpacks. A content is encoded as MessagePack, compressed by zstd, cut into
chunks and verified by SHA-256.
"""

import hashlib
import threading
from collections.abc import Sequence
from typing import Final

import msgspec
import zstandard

from pipeline.errors import Refused, Unrecognised
from topics.contents import ContentChunk, MessageContent
from topics.registry import MAX_RECORD_BYTES

CHUNK_MAX_BYTES: Final = MAX_RECORD_BYTES - 1_000
"""Bytes of data in a chunk; the rest of a record's maximum is for the chunk's other fields."""

MAX_CONTENT_BYTES: Final = 128_000_000
"""Bytes of a content before compression; limited because a few bytes of zstd can unpack to gigabytes."""
MAX_PART_BYTES: Final = 5 * 1024 * 1024
"""Bytes of UTF-8 of each of html, text and amp. Sending services accept no more (Postmark 5 MB each), mailbox providers
show a tenth of it, and encoding a message reads each byte a dozen times."""

_local: Final = threading.local()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MessageContent).decode


def make_compressor() -> zstandard.ZstdCompressor:
    """Return a compressor for many contents, one after the other.

    Making one takes as long as compressing a small content.
    """
    return zstandard.ZstdCompressor(write_checksum=False, write_content_size=True)


def pack_content(
    content: MessageContent, content_id: str, compressor: zstandard.ZstdCompressor | None = None
) -> tuple[list[ContentChunk], str]:
    """Return the content's chunks, in order, and the hex SHA-256 of their joined data.

    Raise Refused for a part over MAX_PART_BYTES, and for a content over MAX_CONTENT_BYTES, which couldn't be unpacked.
    """
    check_part_sizes(content)
    plain = _encode(content)
    if len(plain) > MAX_CONTENT_BYTES:
        raise Refused(f"a content of {len(plain)} bytes; at most {MAX_CONTENT_BYTES} can be taken")
    packed = (compressor or make_compressor()).compress(plain)
    pieces = [packed[start : start + CHUNK_MAX_BYTES] for start in range(0, len(packed), CHUNK_MAX_BYTES)]
    chunks = [
        ContentChunk(content_id=content_id, index=index, total=len(pieces), data=piece)
        for index, piece in enumerate(pieces)
    ]
    return chunks, hashlib.sha256(packed).hexdigest()


def check_part_sizes(content: MessageContent) -> None:
    """Raise Refused for a part over MAX_PART_BYTES."""
    for name in ("html", "text", "amp"):
        size = len(getattr(content, name).encode("utf-8", "surrogatepass"))
        if size > MAX_PART_BYTES:
            raise Refused(f"the {name} part has {size} bytes; at most {MAX_PART_BYTES} can be taken", name)


def unpack_content(chunks: Sequence[ContentChunk], sha256: str) -> MessageContent:
    """Return the content of these chunks, which may be in any order and may be repeated.

    Raise Unrecognised for a missing chunk, a chunk of another content, a different hash, or bytes that are no content.
    """
    packed = _join(chunks)
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise Unrecognised("the content is not the one the request points to: its SHA-256 differs")
    try:
        return _decode(_inflate(packed))
    except (msgspec.MsgspecError, zstandard.ZstdError, UnicodeDecodeError) as error:
        raise Unrecognised(f"the content can't be read: {error}") from error


def unpacked_bytes(chunks: Sequence[ContentChunk]) -> int:
    """Return the unpacked size in bytes that the first chunk declares; 0 if it declares none."""
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


def _inflate(packed: bytes) -> bytes:
    # The decompressor allocates the size that the frame's header declares (pack_content always writes it), so it is
    # checked before. -1 is a frame without it.
    size = zstandard.frame_content_size(packed)
    if not 0 <= size <= MAX_CONTENT_BYTES:
        raise Unrecognised(f"a content that claims {size} bytes; at most {MAX_CONTENT_BYTES} are unpacked")
    if not hasattr(_local, "decompressor"):
        # Making one takes as long as unpacking a small content; one must not be used by two threads at once.
        _local.decompressor = zstandard.ZstdDecompressor()
    content: bytes = _local.decompressor.decompress(packed, allow_extra_data=False)
    return content
