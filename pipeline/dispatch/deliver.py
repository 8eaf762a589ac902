"""A leased `send` job in, an email at its provider and an ack on the log out.

In this order: whose it is, whether it was sent already or may not be, the content, the provider, the
message, the conversation, the ack on `provider-acks`, and only then the verdict that closes the job.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pipeline.admin import Provider
from pipeline.content import dkim, mime
from pipeline.content.message import Letter
from pipeline.dispatch.acks import Reports
from pipeline.dispatch.attempt import Attempt
from pipeline.dispatch.content_reader import Contents, place
from pipeline.dispatch.lookups import Known
from pipeline.dispatch.message import Writer
from pipeline.dispatch.outcome import Conclude
from pipeline.dispatch.routing.router import Router, moves_on
from pipeline.dispatch.routing.routes import Way
from pipeline.dispatch.transports import smtp_replies
from pipeline.dispatch.transports.base import Answer, Carrier, Mail
from pipeline.errors import NotFound, Unrecognised
from pipeline.jobs.engine import Lease
from pipeline.jobs.job import DONE, Job, Lane, Verdict, give_back, hold
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.fair_threads import CALLER, FairThreads
from topics.acks import Acked, Dropped
from topics.codec import decode
from topics.contents import Content
from topics.registry import SEND_REQUESTS
from topics.requests import SendRequest

NO_PROVIDER: Final = "no provider"
"""Why a lane waits; it goes on by itself when its brand gets one."""
ALL_DOWN: Final = "none of its brand's providers is up"
BOUND_S: Final = 10.0
"""Seconds until an email that only one provider may get asks again whether that one is up."""

SIGNED: Final = ("smtp", "sandbox")
"""The kinds whose mail we sign."""
MAX_INLINE_CHARS: Final = 20_000
"""Characters and bytes of a content up to which its message is written in the event loop.

A thousand links fit in, which are signed in 20 ms; whatever is larger is written in a thread.
"""

MAX_WRITING_THREADS: Final = 2
"""Threads that write large messages, one of each tenant at most: writing needs the interpreter's lock."""

SENT: Final = Verdict(DONE.state, lane=Lane.SILENT)


class Deliver:
    """The dispatcher's work."""

    def __init__(
        self, rt: Runtime, carrier: Carrier, contents: Contents, rand: Callable[[], float] = random.random
    ) -> None:
        self._carrier = carrier
        self._contents = contents
        self._writer = Writer(rt.settings, rt.clock)
        self._known = Known(rt)
        self._router = Router(rt)
        self._reports = Reports(rt)
        self._conclude = Conclude(rt, self._reports, rand)
        self._threads = FairThreads(MAX_WRITING_THREADS)

    async def __call__(self, job: Job, lease: Lease) -> Verdict:
        """Send one email, once."""
        request: SendRequest = decode(SEND_REQUESTS, job.payload)
        try:
            attempt = Attempt(job, lease, request, await self._known.way(request))
            return await self._decided(attempt) or await self._with_content(attempt)
        except NotFound:
            return give_back(0, NO_PROVIDER, pause=NO_PROVIDER)

    async def _decided(self, attempt: Attempt) -> Verdict | None:
        """The verdict of an email that is not sent, this time; None: it is."""
        job, request = attempt.job, attempt.request
        if job.attempt > 1 and await self._known.sent(request.email_id):
            # The attempt before, whose end nobody saw, did arrive: neither send again nor call it dropped
            # because its own complaint has suppressed the address meanwhile.
            await self._reports.ack(Acked, attempt, text="its own events tell that it was sent")
            return SENT
        if job.unknown and attempt.brand.unknown_policy == "hold":
            return hold("a dispatcher fell silent while it was sending; it may have been sent")
        if not (why := await self._known.suppressed(request)):
            return None
        if job.unknown:
            return hold("it may have been sent before its address was suppressed")
        await self._reports.ack(Dropped, attempt, reason=f"suppressed: {why}")
        return SENT

    async def _with_content(self, attempt: Attempt) -> Verdict:
        pointer = attempt.request.content
        if pointer is None:
            return await self._reports.failed(attempt, "no content", "the request points to no content")
        try:
            content = await self._contents.get(pointer)
        except Unrecognised as error:
            return await self._reports.failed(attempt, "content", str(error), place(pointer))
        return await self._send(attempt, content)

    async def _send(self, attempt: Attempt, content: Content) -> Verdict:
        """To its provider; to the next one only after the first surely didn't take it."""
        tried: list[tuple[Provider, Answer]] = []
        while (name := await self._router.next(attempt.job, attempt.way, [p.provider for p, _ in tried])) is not None:
            provider = await self._known.provider(name)
            answer = await self._hand_over(attempt, content, provider)
            await self._router.heard(attempt.job, attempt.way, name, answer)
            if attempt.bound or not moves_on(answer):
                return _of_one(attempt, await self._conclude(attempt, provider, answer))
            tried.append((provider, answer))
        return await self._conclude(attempt, *tried[-1]) if tried else _waiting(attempt)

    async def _hand_over(self, attempt: Attempt, content: Content, provider: Provider) -> Answer:
        if _is_quick(content):
            mail = self._mail(attempt, content, provider)
        else:
            CALLER.set(attempt.request.tenant)
            loop = asyncio.get_running_loop()
            mail = await loop.run_in_executor(self._threads, self._mail, attempt, content, provider)
        answer = await self._carrier.send(provider, mail)
        return smtp_replies.of_recipients_server(answer) if provider.means_delivered else answer

    def _mail(self, attempt: Attempt, content: Content, provider: Provider) -> Mail:
        letter = self._writer.letter(attempt.request, content, attempt.brand, provider)
        message = _written(letter, attempt.way, provider) if self._carrier.takes_mime(provider) else b""
        return Mail(self._writer.envelope(letter), letter, message, attempt.lease.contact)


def _is_quick(content: Content) -> bool:
    """Whether the message can be written without keeping other emails waiting."""
    # Contents that were stored by older versions have no text part yet.
    if content.html and not content.text:
        return False
    size = len(content.html) + len(content.text) + len(content.amp)
    return size + sum(len(attachment.data) for attachment in content.attachments) <= MAX_INLINE_CHARS


def _written(letter: Letter, way: Way, provider: Provider) -> bytes:
    """The message, signed where nobody else does: services sign what they send, and some change it before."""
    message = mime.written(letter)
    if way.dkim is None or provider.via != "smtp" or provider.kind not in SIGNED:
        return message
    return dkim.sign(message, way.dkim, letter.date)


def _of_one(attempt: Attempt, verdict: Verdict) -> Verdict:
    """Where a brand has several providers, what one of them says breaks its own lane, not the brand's."""
    if attempt.way.only or verdict.lane not in (Lane.FAILING, Lane.BROKEN):
        return verdict
    return replace(verdict, lane=Lane.SILENT, delay=max(verdict.delay, BOUND_S if not verdict.burnt else 0.0))


def _waiting(attempt: Attempt) -> Verdict:
    if attempt.bound:
        return give_back(BOUND_S, f"{attempt.bound}, which may have got it, is down")
    return give_back(1, ALL_DOWN, Lane.BROKEN)
