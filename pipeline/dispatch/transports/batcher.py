"""Mails that are in hand at once in, one request for many of them out, each one's own answer back.

Whatever comes while the requests under way are out gathers for the next: nobody waits for company,
and a provider that takes few requests per second still takes many mails.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

from pipeline.admin import Provider
from pipeline.dispatch.transports.api_base import ApiResponse, BatchApi
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from pipeline.dispatch.transports.throttle import RateLimitedClient
from pipeline.errors import LeaseLost

MAX_BATCHES_IN_FLIGHT: Final = 2
"""Requests for many under way: one would leave the line idle between two."""
GATHER_DELAY_S: Final = 0.005
"""Seconds until the first goes: what was claimed together comes together."""
_OVERHEAD_BYTES: Final = 4_000


@dataclass(slots=True)
class _PendingMail:
    mail: OutgoingEmail
    answer: asyncio.Future[SendResult]

    def commit(self) -> None:
        """Raises LeaseLost where nobody waits any more: the job was given back, somebody else may have it."""
        if self.answer.done():
            raise LeaseLost
        self.mail.commit()


class MailBatcher:
    """Gathers one provider's mails."""

    def __init__(self, provider: Provider, many: BatchApi, desk: RateLimitedClient) -> None:
        self._provider = provider
        self._many = many
        self._desk = desk
        self._waiting: deque[_PendingMail] = deque()
        self._senders: set[asyncio.Task[None]] = set()

    async def send(self, mail: OutgoingEmail) -> SendResult:
        """One mail, in whatever company there is."""
        if not self._many.fits_batch(mail) or _weight(mail) > self._many.BATCH_MAX_BYTES:
            return await self._desk.send(mail)
        waiting = _PendingMail(mail, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if len(self._senders) < min(MAX_BATCHES_IN_FLIGHT, self._provider.max_connections):
            sender = asyncio.create_task(self._serve())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await waiting.answer

    async def _serve(self) -> None:
        await asyncio.sleep(GATHER_DELAY_S)
        while batch := self._next():
            try:
                await self._send(batch)
            except Exception as error:
                _fail(batch, error)

    def _next(self) -> list[_PendingMail]:
        batch: list[_PendingMail] = []
        size = 0
        while self._waiting and len(batch) < self._many.BATCH_MAX_MAILS:
            size += _weight(self._waiting[0].mail)
            if batch and size > self._many.BATCH_MAX_BYTES:
                break
            waiting = self._waiting.popleft()
            if not waiting.answer.done():
                batch.append(waiting)
        return batch

    async def _send(self, batch: list[_PendingMail]) -> None:
        if len(batch) == 1:
            _tell(batch[0], await self._desk.send(replace(batch[0].mail, commit=batch[0].commit)))
            return
        try:
            answers = await self._ask(batch)
        except LeaseLost:
            # Nothing went out. Whose lease is lost falls out, the rest goes again.
            self._waiting.extendleft(reversed(_still_ours(batch)))
            return
        if answers is None:
            # Refused as a whole for the sake of one: nothing was taken, so each may go alone.
            await self._one_by_one(batch)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            _tell(waiting, answer)

    async def _ask(self, batch: list[_PendingMail]) -> list[SendResult] | None:
        mails = [waiting.mail for waiting in batch]

        def commit() -> None:
            for waiting in batch:
                waiting.commit()

        def read(reply: ApiResponse) -> list[SendResult] | None:
            return self._many.batch_results(reply, len(batch))

        answers = await self._desk.request(lambda: self._many.batch_request(self._provider, mails), commit, read)
        if answers is None or (answers[0].outcome is SendOutcome.REFUSED and len(answers) < len(batch)):
            return None
        return list(answers) if len(answers) == len(batch) else [answers[0]] * len(batch)

    async def _one_by_one(self, batch: list[_PendingMail]) -> None:
        for waiting in batch:
            try:
                _tell(waiting, await self._desk.send(replace(waiting.mail, commit=waiting.commit)))
            except LeaseLost as error:
                _fail([waiting], error)

    async def close(self) -> None:
        """End what is under way; who waits hears nothing more."""
        for sender in list(self._senders):
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)


def _weight(mail: OutgoingEmail) -> int:
    """About how many bytes a mail adds to a request: text as JSON may grow, files do by a third."""
    content = mail.letter.content
    files = sum(len(attachment.data) for attachment in content.attachments)
    return _OVERHEAD_BYTES + 2 * (len(content.html) + len(content.text)) + files * 14 // 10


def _still_ours(batch: list[_PendingMail]) -> list[_PendingMail]:
    ours = []
    for waiting in batch:
        try:
            waiting.commit()
            ours.append(waiting)
        except LeaseLost as error:
            _fail([waiting], error)
    return ours


def _tell(waiting: _PendingMail, answer: SendResult) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(answer)


def _fail(batch: list[_PendingMail], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
            waiting.answer.exception()  # marked as seen: nobody may be waiting any more
