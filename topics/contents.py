"""`message-contents`: bodies and attachments in chunks; MessagePack, because they are bytes."""

from topics.record import Record, RecordPart


class Attachment(RecordPart, frozen=True, kw_only=True):
    """A file attached to a message."""

    filename: str
    media_type: str
    data: bytes


class MessageContent(RecordPart, frozen=True, kw_only=True):
    """A message's bodies, attachments and extra headers; its writer has checked headers for CR, LF and NUL."""

    html: str = ""
    text: str = ""
    amp: str = ""
    attachments: tuple[Attachment, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()


class ContentChunk(Record, tag="content-chunk/1", frozen=True, kw_only=True):
    """One piece (≤ 900 kB) of a zstd-compressed, MessagePack-encoded :class:`MessageContent`."""

    content_id: str
    index: int
    total: int
    data: bytes
