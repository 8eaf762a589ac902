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
from pipeline.content.message import OutgoingMessage
from pipeline.dispatch.acks import AckWriter
from pipeline.dispatch.attempt import SendAttempt
from pipeline.dispatch.content_reader import ContentReader, content_place
from pipeline.dispatch.lookups import DispatchLookups
from pipeline.dispatch.message import MessageWriter
from pipeline.dispatch.outcome import SendResultHandler
from pipeline.dispatch.routing.router import ProviderRouter, permits_failover
from pipeline.dispatch.routing.routes import BrandRouting
from pipeline.dispatch.transports import smtp_replies
from pipeline.dispatch.transports.base import OutgoingEmail, SendResult, Transport
from pipeline.errors import NotFound, Unrecognised
from pipeline.jobs.engine import Lease
from pipeline.jobs.job import DONE, EndpointHealth, Job, JobResult, hold, release
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.fair_threads import CURRENT_CALLER, FairThreads
from topics.acks import Acked, Dropped
from topics.codec import decode
from topics.contents import MessageContent
from topics.registry import SEND_REQUESTS
from topics.requests import SendRequest

NO_PROVIDER: Final = "no provider"
"""Why a lane waits; it goes on by itself when its brand gets one."""
ALL_PROVIDERS_DOWN: Final = "none of its brand's providers is up"
BOUND_RETRY_DELAY_S: Final = 10.0
"""Seconds until an email that only one provider may get asks again whether that one is up."""

SIGNED_PROVIDER_KINDS: Final = ("smtp", "sandbox")
"""The kinds whose mail we sign."""
MAX_INLINE_CHARS: Final = 20_000
"""Characters and bytes of a content up to which its message is written in the event loop.

A thousand links fit in, which are signed in 20 ms; whatever is larger is written in a thread.
"""

MAX_WRITING_THREADS: Final = 2
"""Threads that write large messages, one of each tenant at most: writing needs the interpreter's lock."""

ALREADY_SETTLED: Final = JobResult(DONE.state, health=EndpointHealth.SILENT)


class SendJobHandler:
    """The dispatcher's work."""

    def __init__(
        self, rt: Runtime, carrier: Transport, contents: ContentReader, rand: Callable[[], float] = random.random
    ) -> None:
        self._carrier = carrier
        self._contents = contents
        self._writer = MessageWriter(rt.settings, rt.clock)
        self._known = DispatchLookups(rt)
        self._router = ProviderRouter(rt)
        self._reports = AckWriter(rt)
        self._conclude = SendResultHandler(rt, self._reports, rand)
        self._threads = FairThreads(MAX_WRITING_THREADS)

    async def __call__(self, job: Job, lease: Lease) -> JobResult:
        """Send one email, once."""
        request: SendRequest = decode(SEND_REQUESTS, job.payload)
        try:
            attempt = SendAttempt(job, lease, request, await self._known.routing(request))
            return await self._decided(attempt) or await self._with_content(attempt)
        except NotFound:
            return release(0, NO_PROVIDER, pause=NO_PROVIDER)

    async def _decided(self, attempt: SendAttempt) -> JobResult | None:
        """The verdict of an email that is not sent, this time; None: it is."""
        job, request = attempt.job, attempt.request
        if job.attempt > 1 and await self._known.was_sent(request.email_id):
            # The attempt before, whose end nobody saw, did arrive: neither send again nor call it dropped
            # because its own complaint has suppressed the address meanwhile.
            await self._reports.write_ack(Acked, attempt, text="its own events tell that it was sent")
            return ALREADY_SETTLED
        if job.unknown and attempt.brand.unknown_policy == "hold":
            return hold("a dispatcher fell silent while it was sending; it may have been sent")
        if not (why := await self._known.suppression_reason(request)):
            return None
        if job.unknown:
            return hold("it may have been sent before its address was suppressed")
        await self._reports.write_ack(Dropped, attempt, reason=f"suppressed: {why}")
        return ALREADY_SETTLED

    async def _with_content(self, attempt: SendAttempt) -> JobResult:
        pointer = attempt.request.content
        if pointer is None:
            return await self._reports.write_failure(attempt, "no content", "the request points to no content")
        try:
            content = await self._contents.get(pointer)
        except Unrecognised as error:
            return await self._reports.write_failure(attempt, "content", str(error), content_place(pointer))
        return await self._send(attempt, content)

    async def _send(self, attempt: SendAttempt, content: MessageContent) -> JobResult:
        """To its provider; to the next one only after the first surely didn't take it."""
        tried: list[tuple[Provider, SendResult]] = []
        while (
            name := await self._router.choose_provider(attempt.job, attempt.routing, [p.provider for p, _ in tried])
        ) is not None:
            provider = await self._known.provider(name)
            answer = await self._hand_over(attempt, content, provider)
            await self._router.record_result(attempt.job, attempt.routing, name, answer)
            if attempt.bound_provider or not permits_failover(answer):
                return _of_one(attempt, await self._conclude(attempt, provider, answer))
            tried.append((provider, answer))
        return await self._conclude(attempt, *tried[-1]) if tried else _waiting(attempt)

    async def _hand_over(self, attempt: SendAttempt, content: MessageContent, provider: Provider) -> SendResult:
        if _is_quick(content):
            mail = self._mail(attempt, content, provider)
        else:
            CURRENT_CALLER.set(attempt.request.tenant)
            loop = asyncio.get_running_loop()
            mail = await loop.run_in_executor(self._threads, self._mail, attempt, content, provider)
        answer = await self._carrier.send(provider, mail)
        return smtp_replies.as_recipient_server_result(answer) if provider.means_delivered else answer

    def _mail(self, attempt: SendAttempt, content: MessageContent, provider: Provider) -> OutgoingEmail:
        letter = self._writer.letter(attempt.request, content, attempt.brand, provider)
        message = _written(letter, attempt.routing, provider) if self._carrier.takes_mime(provider) else b""
        return OutgoingEmail(self._writer.envelope(letter), letter, message, attempt.lease.begin_contact)


def _is_quick(content: MessageContent) -> bool:
    """Whether the message can be written without keeping other emails waiting."""
    # Contents that were stored by older versions have no text part yet.
    if content.html and not content.text:
        return False
    size = len(content.html) + len(content.text) + len(content.amp)
    return size + sum(len(attachment.data) for attachment in content.attachments) <= MAX_INLINE_CHARS


def _written(letter: OutgoingMessage, way: BrandRouting, provider: Provider) -> bytes:
    """The message, signed where nobody else does: services sign what they send, and some change it before."""
    message = mime.encode_message(letter)
    if way.dkim is None or provider.via != "smtp" or provider.kind not in SIGNED_PROVIDER_KINDS:
        return message
    return dkim.sign(message, way.dkim, letter.date)


def _of_one(attempt: SendAttempt, verdict: JobResult) -> JobResult:
    """Where a brand has several providers, what one of them says breaks its own lane, not the brand's."""
    if attempt.routing.only_provider or verdict.health not in (EndpointHealth.FAILING, EndpointHealth.BROKEN):
        return verdict
    return replace(
        verdict,
        health=EndpointHealth.SILENT,
        delay_s=max(verdict.delay_s, BOUND_RETRY_DELAY_S if not verdict.counts_as_attempt else 0.0),
    )


def _waiting(attempt: SendAttempt) -> JobResult:
    if attempt.bound_provider:
        return release(BOUND_RETRY_DELAY_S, f"{attempt.bound_provider}, which may have got it, is down")
    return release(1, ALL_PROVIDERS_DOWN, EndpointHealth.BROKEN)
