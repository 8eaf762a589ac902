"""Send emails to one provider in batches, with a result for each. Called by the transport router.

Emails that arrive while requests are in flight form the next batch, so no email waits only for others to arrive,
and a provider that allows few requests per second still gets many emails.
"""

import asyncio
import contextvars
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from pipeline.admin import Provider
from pipeline.dispatch.transports.api_base import ApiResponse, BatchApi
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from pipeline.dispatch.transports.throttle import RateLimitedClient
from pipeline.errors import LeaseLost
from pipeline.runtime.tasks import cancel_tasks

MAX_BATCHES_IN_FLIGHT: Final = 2
"""Batch requests in flight at once; with only one, the connection would be idle between two."""
GATHER_DELAY_S: Final = 0.005
"""Seconds before the first batch is sent, so that jobs claimed together share a request."""
_OVERHEAD_BYTES: Final = 4_000
"""Estimated size of the headers and addresses of one email in a request, in bytes."""


@dataclass(slots=True)
class _PendingMail:
    mail: OutgoingEmail
    result: asyncio.Future[SendResult]

    def commit(self) -> None:
        """Commit the email. Raise LeaseLost if its caller is gone: the job was released and may be claimed again."""
        if self.result.done():
            raise LeaseLost
        self.mail.commit()


class MailBatcher:
    """The queue of emails to one provider, sent in batches."""

    def __init__(self, provider: Provider, api: BatchApi, client: RateLimitedClient) -> None:
        self._provider = provider
        self._api = api
        self._client = client
        self._pending: deque[_PendingMail] = deque()
        self._senders: set[asyncio.Task[None]] = set()

    async def send(self, mail: OutgoingEmail) -> SendResult:
        """Send one email, in a batch with others if there are any."""
        if not self._api.fits_batch(mail) or _estimated_bytes(mail) > self._api.BATCH_MAX_BYTES:
            return await self._client.send(mail)
        pending = _PendingMail(mail, asyncio.get_running_loop().create_future())
        self._pending.append(pending)
        if len(self._senders) < min(MAX_BATCHES_IN_FLIGHT, self._provider.max_connections):
            # In a context of its own: a batch has emails of many jobs, and its log lines must not name one.
            sender = asyncio.create_task(self._send_pending(), context=contextvars.Context())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await pending.result

    async def _send_pending(self) -> None:
        await asyncio.sleep(GATHER_DELAY_S)
        while batch := self._next_batch():
            try:
                await self._send_batch(batch)
            except Exception as error:
                _fail(batch, error)

    def _next_batch(self) -> list[_PendingMail]:
        batch: list[_PendingMail] = []
        size = 0
        while self._pending and len(batch) < self._api.BATCH_MAX_MAILS:
            size += _estimated_bytes(self._pending[0].mail)
            if batch and size > self._api.BATCH_MAX_BYTES:
                break
            pending = self._pending.popleft()
            if not pending.result.done():
                batch.append(pending)
        return batch

    async def _send_batch(self, batch: list[_PendingMail]) -> None:
        if len(batch) == 1:
            _set_result(batch[0], await self._client.send(replace(batch[0].mail, commit=batch[0].commit)))
            return
        try:
            results = await self._request_batch(batch)
        except LeaseLost:
            # Nothing was sent. Drop the emails whose lease is lost and queue the others again.
            self._pending.extendleft(reversed(_with_lease(batch)))
            return
        if results is None:
            # The batch was refused because of one email and none was accepted, so each can be sent alone.
            await self._send_one_by_one(batch)
            return
        for pending, result in zip(batch, results, strict=True):
            _set_result(pending, result)

    async def _request_batch(self, batch: list[_PendingMail]) -> list[SendResult] | None:
        mails = [pending.mail for pending in batch]

        def commit() -> None:
            for pending in batch:
                pending.commit()

        def read(reply: ApiResponse) -> list[SendResult] | None:
            return self._api.batch_results(reply, len(batch))

        results = await self._client.request(lambda: self._api.batch_request(self._provider, mails), commit, read)
        if results is None or (results[0].outcome is SendOutcome.REFUSED and len(results) < len(batch)):
            return None
        return list(results) if len(results) == len(batch) else [results[0]] * len(batch)

    async def _send_one_by_one(self, batch: list[_PendingMail]) -> None:
        for pending in batch:
            try:
                _set_result(pending, await self._client.send(replace(pending.mail, commit=pending.commit)))
            except LeaseLost as error:
                _fail([pending], error)

    async def close(self) -> None:
        """Cancel the requests in flight; their callers get no result."""
        await cancel_tasks(list(self._senders))


def _estimated_bytes(mail: OutgoingEmail) -> int:
    """Return about how many bytes an email adds to a request: JSON may double text, base64 adds a third to files."""
    content = mail.message.content
    files = sum(len(attachment.data) for attachment in content.attachments)
    return _OVERHEAD_BYTES + 2 * (len(content.html) + len(content.text)) + files * 14 // 10


def _with_lease(batch: list[_PendingMail]) -> list[_PendingMail]:
    leased = []
    for pending in batch:
        try:
            pending.commit()
            leased.append(pending)
        except LeaseLost as error:
            _fail([pending], error)
    return leased


def _set_result(pending: _PendingMail, result: SendResult) -> None:
    if not pending.result.done():
        pending.result.set_result(result)


def _fail(batch: list[_PendingMail], error: Exception) -> None:
    for pending in batch:
        if not pending.result.done():
            pending.result.set_exception(error)
            pending.result.exception()  # marks it as retrieved: the caller may be gone, and asyncio would log it
