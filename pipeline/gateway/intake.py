"""Put accepted messages on the log: their contents first, then the send requests that point to them.

The routes of the sending APIs call it. The send request's record is the commit point, and every step may be
repeated: the same message gets the same email_id, and contents left over from a failed attempt expire.
"""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from pipeline import admin
from pipeline.content.chunks import make_compressor, pack_content
from pipeline.content.text import with_text_part
from pipeline.errors import DatabaseUnavailable, NotFound, Refused
from pipeline.gateway import idempotency
from pipeline.gateway.auth import suspension_problem
from pipeline.gateway.problems import HttpProblem
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.crashpoints import crash_point
from pipeline.runtime.observing.tracing import current_span, email_attributes
from pipeline.runtime.ports import Log, LogEntry
from pipeline.runtime.postgres.database import DATABASE_UNAVAILABLE_ERRORS
from topics.contents import ContentChunk, MessageContent
from topics.record import EmailId, LogPosition
from topics.registry import MESSAGE_CONTENTS, SEND_REQUESTS
from topics.requests import DEFAULT_BRAND, ContentPointer, SendRequest


class AcceptedMessage(msgspec.Struct, frozen=True):
    """A send request that lacks only the pointer to its content; messages with the same content object share it."""

    request: SendRequest
    content: MessageContent


class IntakeResult(msgspec.Struct):
    """The outcome for a batch's emails; an email in neither field was not confirmed in time."""

    accepted: set[EmailId]
    """Emails whose send request is on the log."""
    refused: dict[EmailId, str]
    """Reasons, by email."""


class _PackedContent(msgspec.Struct, frozen=True):
    """A compressed content in chunks, with the requests that share it."""

    requests: list[SendRequest]
    chunks: list[ContentChunk]
    sha256: str


class MessageIntake:
    """The writer of contents and send requests, with the check that an id is never used for another recipient."""

    def __init__(self, runtime: Runtime, log: Log) -> None:
        self._runtime = runtime
        self._log = log

    async def accept(self, messages: Mapping[EmailId, AcceptedMessage]) -> IntakeResult:
        """Reserve the ids, append the contents, then the requests, all within the setting `append_timeout`.

        The messages are of one tenant. Raises DatabaseUnavailable if the ids can't be reserved, and HttpProblem 403
        if the tenant was suspended or deleted since its key was looked up, which a slow body makes a minute ago.
        A deletion relies on that: nothing is accepted `append_timeout` after the suspension.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._runtime.settings.append_timeout
        await self._require_active(messages, deadline)
        refused = await self._reserve(messages, deadline)
        reserved = [message for email_id, message in messages.items() if email_id not in refused]
        packed_contents = await asyncio.to_thread(self._pack, reserved, refused)
        requests = await self._append_contents(packed_contents, deadline - loop.time())
        crash_point("gateway.between-content-and-request")
        entries = [LogEntry(SEND_REQUESTS, request.email_id, request) for request in requests]
        positions = await self._append(entries, deadline - loop.time())
        accepted = {
            request.email_id for request, position in zip(requests, positions, strict=True) if position is not None
        }
        current_span().set_attributes(email_attributes(accepted))
        return IntakeResult(accepted, refused)

    async def reserve_recipients(self, message_id: str, recipients: Iterable[str]) -> bool:
        """Reserve an Idempotency-Key's message for a list of recipients; return False if it has another list.

        Raises DatabaseUnavailable.
        """
        # No address contains a line break, so the joined text is unambiguous.
        fingerprints = {EmailId(message_id): idempotency.fingerprint("\n".join(recipients), DEFAULT_BRAND)}
        deadline = asyncio.get_running_loop().time() + self._runtime.settings.append_timeout
        return not await self._reserve_ids(fingerprints, deadline)

    async def _reserve(self, messages: Mapping[EmailId, AcceptedMessage], deadline: float) -> dict[EmailId, str]:
        """Reserve the messages' ids; return the reason for each that is refused."""
        fingerprints = {
            email_id: idempotency.fingerprint(message.request.recipient, message.request.brand)
            for email_id, message in messages.items()
        }
        conflicts = await self._reserve_ids(fingerprints, deadline)
        return dict.fromkeys(conflicts, "this id was taken before with another recipient or brand")

    async def _require_active(self, messages: Mapping[EmailId, AcceptedMessage], deadline: float) -> None:
        """Raise HttpProblem 403 unless the messages' tenant may send now."""
        if not messages:
            return
        tenant = next(iter(messages.values())).request.tenant
        try:
            async with asyncio.timeout_at(deadline):
                reason = await admin.get_suspension(self._runtime.pool, tenant)
        except NotFound as error:
            raise HttpProblem(403, str(error)) from error
        except (*DATABASE_UNAVAILABLE_ERRORS, TimeoutError) as error:
            raise DatabaseUnavailable from error
        if reason is not None:
            raise suspension_problem(tenant, reason)

    async def _reserve_ids(self, fingerprints: Mapping[EmailId, bytes], deadline: float) -> set[EmailId]:
        """Reserve the ids until the deadline, in seconds of the event loop's clock; return those in conflict."""
        try:
            async with asyncio.timeout_at(deadline):
                return await idempotency.reserve_ids(self._runtime.pool, fingerprints, self._runtime.clock())
        except (*DATABASE_UNAVAILABLE_ERRORS, TimeoutError) as error:
            raise DatabaseUnavailable from error

    def _pack(self, messages: Iterable[AcceptedMessage], refused: dict[EmailId, str]) -> list[_PackedContent]:
        """Make text parts and compress each content once; add the emails of contents that can't be sent to `refused`.

        Runs in a thread: a large batch would block the event loop, and with it pixels and links.
        """
        requests_by_content: dict[int, tuple[MessageContent, list[SendRequest]]] = {}
        for message in messages:
            requests_by_content.setdefault(id(message.content), (message.content, []))[1].append(message.request)
        packed_contents = []
        compressor = make_compressor()
        for content, requests in requests_by_content.values():
            try:
                chunks, sha256 = pack_content(with_text_part(content), self._runtime.new_id(), compressor)
                packed_contents.append(_PackedContent(requests, chunks, sha256))
            except Refused as error:
                refused |= {request.email_id: str(error) for request in requests}
        return packed_contents

    async def _append_contents(self, packed_contents: list[_PackedContent], timeout_s: float) -> list[SendRequest]:
        """Append the contents; return the requests whose contents were confirmed, each with its pointer."""
        entries = [
            LogEntry(MESSAGE_CONTENTS, chunk.content_id, chunk) for packed in packed_contents for chunk in packed.chunks
        ]
        positions = iter(await self._append(entries, timeout_s))
        requests = []
        for packed in packed_contents:
            chunk_positions = [next(positions) for _ in packed.chunks]
            if pointer := _content_pointer(packed.chunks, chunk_positions, packed.sha256):
                requests += [msgspec.structs.replace(request, content=pointer) for request in packed.requests]
        return requests

    async def _append(self, entries: list[LogEntry], timeout_s: float) -> list[LogPosition | None]:
        return await self._log.append(entries, within=max(0.0, timeout_s)) if entries else []


def _content_pointer(
    chunks: list[ContentChunk], positions: list[LogPosition | None], sha256: str
) -> ContentPointer | None:
    """Return the pointer to a content, or None if any of its chunks was not confirmed."""
    first = positions[0]
    if first is None or None in positions:
        return None
    return ContentPointer(
        content_id=chunks[0].content_id,
        partition=first.partition,
        offset=first.offset,
        chunks=len(chunks),
        sha256=sha256,
    )
