"""A tenant's wishes -> contents and requests on the log; which emails were taken, refused or not confirmed.

Content first; the request's record is the commit point. Everything here may be repeated: the same
wish gets the same email_id, and what was left behind by a failed try expires.
"""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from pipeline.content.chunks import make_compressor, pack_content
from pipeline.content.text import with_text_part
from pipeline.errors import DatabaseUnavailable, Refused
from pipeline.gateway import idempotency
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.database import DATABASE_UNAVAILABLE_ERRORS
from pipeline.runtime.ports import Log, LogEntry
from topics.contents import ContentChunk, MessageContent
from topics.record import EmailId, LogPosition
from topics.registry import MESSAGE_CONTENTS, SEND_REQUESTS
from topics.requests import DEFAULT_BRAND, ContentPointer, SendRequest


class AcceptedMessage(msgspec.Struct, frozen=True):
    """A request that lacks only the pointer to its content. Parcels with one content share it on the log."""

    request: SendRequest
    content: MessageContent


class IntakeResult(msgspec.Struct):
    """What became of a batch's emails; one that is nowhere here was not confirmed."""

    taken: set[EmailId]
    refused: dict[EmailId, str]


class _PackedContent(msgspec.Struct, frozen=True):
    requests: list[SendRequest]
    chunks: list[ContentChunk]
    sha256: str


class MessageIntake:
    """Takes parcels in."""

    def __init__(self, rt: Runtime, log: Log) -> None:
        self._rt = rt
        self._log = log

    async def take(self, parcels: Mapping[EmailId, AcceptedMessage]) -> IntakeResult:
        """Reserve, append contents, append requests: all before one deadline. Raises DatabaseUnavailable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._rt.settings.append_timeout
        refused = await self._reserve(parcels, deadline)
        mine = [parcel for email_id, parcel in parcels.items() if email_id not in refused]
        packed = await asyncio.to_thread(self._pack, mine, refused)
        pointed = await self._contents(packed, deadline - loop.time())
        crash_point("gateway.between-content-and-request")
        entries = [LogEntry(SEND_REQUESTS, request.email_id, request) for request in pointed]
        places = await self._append(entries, deadline - loop.time())
        taken = {request.email_id for request, place in zip(pointed, places, strict=True) if place is not None}
        return IntakeResult(taken, refused)

    async def reserve_recipients(self, message_id: str, recipients: Iterable[str]) -> bool:
        """Whether an Idempotency-Key is new, or was used for these very recipients. Raises DatabaseUnavailable."""
        # No address has a line break.
        prints = {EmailId(message_id): idempotency.fingerprint("\n".join(recipients), DEFAULT_BRAND)}
        deadline = asyncio.get_running_loop().time() + self._rt.settings.append_timeout
        return not await self._conflicting(prints, deadline)

    async def _reserve(self, parcels: Mapping[EmailId, AcceptedMessage], deadline: float) -> dict[EmailId, str]:
        prints = {
            email_id: idempotency.fingerprint(parcel.request.recipient, parcel.request.brand)
            for email_id, parcel in parcels.items()
        }
        conflicting = await self._conflicting(prints, deadline)
        return dict.fromkeys(conflicting, "this id was taken before with another recipient or brand")

    async def _conflicting(self, prints: Mapping[EmailId, bytes], deadline: float) -> set[EmailId]:
        try:
            async with asyncio.timeout_at(deadline):
                return await idempotency.reserve_ids(self._rt.pool, prints, self._rt.clock())
        except (*DATABASE_UNAVAILABLE_ERRORS, TimeoutError) as error:
            raise DatabaseUnavailable from error

    def _pack(self, parcels: Iterable[AcceptedMessage], refused: dict[EmailId, str]) -> list[_PackedContent]:
        """Make text parts and compress, in a thread: a batch's worth would keep pixels and links waiting."""
        shared: dict[int, tuple[MessageContent, list[SendRequest]]] = {}
        for parcel in parcels:
            shared.setdefault(id(parcel.content), (parcel.content, []))[1].append(parcel.request)
        packed = []
        by = make_compressor()
        for content, requests in shared.values():
            try:
                packed.append(_PackedContent(requests, *pack_content(with_text_part(content), self._rt.new_id(), by)))
            except Refused as error:
                refused |= {request.email_id: str(error) for request in requests}
        return packed

    async def _contents(self, packed: list[_PackedContent], within: float) -> list[SendRequest]:
        """The requests whose contents the log has, each with its pointer."""
        entries = [LogEntry(MESSAGE_CONTENTS, chunk.content_id, chunk) for one in packed for chunk in one.chunks]
        places = iter(await self._append(entries, within))
        requests = []
        for one in packed:
            mine = [next(places) for _ in one.chunks]
            if pointer := _pointer(one.chunks, mine, one.sha256):
                requests += [msgspec.structs.replace(request, content=pointer) for request in one.requests]
        return requests

    async def _append(self, entries: list[LogEntry], within: float) -> list[LogPosition | None]:
        return await self._log.append(entries, within=max(0.0, within)) if entries else []


def _pointer(chunks: list[ContentChunk], places: list[LogPosition | None], sha256: str) -> ContentPointer | None:
    first = places[0]
    if first is None or None in places:
        return None
    return ContentPointer(
        content_id=chunks[0].content_id,
        partition=first.partition,
        offset=first.offset,
        chunks=len(chunks),
        sha256=sha256,
    )
