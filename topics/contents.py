"""`message-contents`: bodies and attachments, chunked; MessagePack, because bodies are bytes."""

from topics.record import Record, RecordPart


class Attachment(RecordPart, frozen=True, kw_only=True):
    """A file that goes with the message."""

    filename: str
    media_type: str
    data: bytes


class MessageContent(RecordPart, frozen=True, kw_only=True):
    """What is said in a message. Headers are ours to check before they come here: no CR, LF, NUL."""

    html: str = ""
    text: str = ""
    amp: str = ""
    attachments: tuple[Attachment, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


class ContentChunk(Record, tag="content-chunk/1", frozen=True, kw_only=True):
    """One piece (≤ 900 kB) of a zstd-compressed, MessagePack-encoded :class:`Content`."""

    content_id: str
    index: int
    total: int
    data: bytes
