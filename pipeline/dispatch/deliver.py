"""Handle a `send` job: hand the email to a provider and write the ack to the log.

Called by the job engine of `mailfold dispatch`. The order is: find the routing of the brand, check whether the
email was already sent or is suppressed, read the content, choose a provider, write the message, send it, append
the ack to `provider-acks`, and only then return the result that settles the job.
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
from pipeline.dispatch.content_reader import ContentReader, content_position
from pipeline.dispatch.lookups import DispatchLookups
from pipeline.dispatch.message import MessageWriter
from pipeline.dispatch.moved_contents import ContentFinder
from pipeline.dispatch.outcome import SendResultHandler
from pipeline.dispatch.pacing import LargeMessagePacer
from pipeline.dispatch.routing.router import ProviderRouter, permits_failover
from pipeline.dispatch.routing.routes import BrandRouting
from pipeline.dispatch.transports import smtp_replies
from pipeline.dispatch.transports.base import OutgoingEmail, SendResult, Transport
from pipeline.errors import NotFound, Unrecognised
from pipeline.jobs.engine import Lease
from pipeline.jobs.job import DONE, UNHEALTHY, EndpointHealth, Job, JobResult, hold, release
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.fair_threads import CURRENT_CALLER, FairThreads
from pipeline.runtime.kafka.skipped_records import SkippedRecords
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.suppressions.queries import SuppressionQueries
from topics.acks import Acked, Dropped
from topics.codec import NewerRecord, decode
from topics.contents import MessageContent
from topics.registry import SEND_REQUESTS
from topics.requests import SendRequest

logger = get_logger(__name__)

NO_PROVIDER: Final = "no provider"
"""Reason stored with a paused lane; the lane resumes by itself when its brand gets a provider."""
SUSPENDED: Final = "its tenant is suspended"
ALL_PROVIDERS_DOWN: Final = "none of its brand's providers is up"
BOUND_RETRY_DELAY_S: Final = 10.0
"""Seconds until an email that only one provider may get checks again whether that provider is up."""

SIGNED_PROVIDER_KINDS: Final = ("smtp", "sandbox")
"""Kinds of provider whose messages we sign with DKIM; the others sign by themselves."""
NEWER_RECORD_DELAY_S: Final = 30.0
"""Seconds for which an email waits for a newer dispatcher that knows the version of its request or content."""
MAX_INLINE_CHARS: Final = 20_000
"""Largest content, in characters of text plus bytes of attachments, whose message is written in the event loop.

It has room for a thousand links, which take 20 ms to sign; larger messages are written in a thread.
"""

MAX_WRITING_THREADS: Final = 2
"""Threads that write large messages, at most one per tenant; more would only compete for the GIL."""

ALREADY_SETTLED: Final = JobResult(DONE.state, health=EndpointHealth.SILENT)


class SendJobHandler:
    """The job handler of the dispatcher."""

    def __init__(
        self,
        rt: Runtime,
        transport: Transport,
        content_reader: ContentReader,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        settings = rt.settings
        self._contents = ContentFinder(content_reader, settings)
        self._message_writer = MessageWriter(settings, rt.clock)
        self._lookups = DispatchLookups(rt.pool, secret_ring(settings), SuppressionQueries(rt))
        self._router = ProviderRouter(rt.pool, settings.smtp_timeout)
        self._acks = AckWriter(rt.log, rt.clock)
        self._handle_result = SendResultHandler(self._acks, settings.dispatch_schedule, rt.clock, rand)
        self._skipped = SkippedRecords(settings)
        self._threads = FairThreads(MAX_WRITING_THREADS)
        self._pacer = LargeMessagePacer()

    async def __call__(self, job: Job, lease: Lease) -> JobResult:
        """Send the email of a job and return how the job ended. Raises LeaseLost if another process may hold it."""
        try:
            request: SendRequest = decode(SEND_REQUESTS, job.payload)
            self._pacer.note_job(request.tenant)
            attempt = SendAttempt(job, lease, request, await self._lookups.routing(request))
            return await self._skip_result(attempt) or await self._read_and_send(attempt)
        except NotFound:
            return release(0, NO_PROVIDER, pause=NO_PROVIDER)
        except NewerRecord as error:
            logger.critical("email needs a newer dispatcher", email_id=job.stream, error=str(error))
            return release(NEWER_RECORD_DELAY_S, str(error))

    async def _skip_result(self, attempt: SendAttempt) -> JobResult | None:
        """Return the result of an email that must not be sent in this attempt; None if it must be sent."""
        job, request = attempt.job, attempt.request
        if job.attempt > 1 and await self._lookups.was_sent(request.email_id):
            # An earlier attempt, whose outcome was lost, did reach the provider. Check this before the suppressions:
            # a complaint about that very email may have suppressed the address, but the email was not dropped.
            await self._acks.write_ack(Acked, attempt, text="its own events tell that it was sent")
            return ALREADY_SETTLED
        if job.unknown and attempt.brand.unknown_policy == "hold":
            return hold("a dispatcher fell silent while it was sending; it may have been sent")
        if not (reason := await self._lookups.suppression_reason(request)):
            return None
        if job.unknown:
            return hold("it may have been sent before its address was suppressed")
        await self._acks.write_ack(Dropped, attempt, reason=f"suppressed: {reason}")
        return ALREADY_SETTLED

    async def _read_and_send(self, attempt: SendAttempt) -> JobResult:
        pointer = attempt.request.content
        if pointer is None:
            return await self._acks.write_failure(attempt, "no content", "the request points to no content")
        try:
            content = await self._contents.get(pointer, attempt.request.recorded_at)
        except Unrecognised as error:
            return await self._acks.write_failure(attempt, "content", str(error), content_position(pointer))
        except NewerRecord as error:
            place = await self._skipped.require(error)
            return await self._acks.write_failure(attempt, "content", "skipped by an operator", place)
        return await self._send(attempt, content)

    async def _send(self, attempt: SendAttempt, content: MessageContent) -> JobResult:
        """Send to the chosen provider, and to the next one only if the first certainly did not accept the email."""
        tried: list[tuple[Provider, SendResult]] = []
        while (
            name := await self._router.choose_provider(attempt.job, attempt.routing, [p.provider for p, _ in tried])
        ) is not None:
            provider = await self._lookups.provider(name)
            mail = await self._write(provider, attempt, content)
            # The job was claimed up to minutes ago: it may have waited for its turn. What one provider refused goes on.
            if not tried and await self._lookups.is_suspended(attempt.request.tenant):
                return release(0, SUSPENDED)
            result = await self._transport.send(provider, mail)
            result = smtp_replies.as_recipient_server_result(result) if provider.means_delivered else result
            await self._router.record_result(attempt.job, attempt.routing, name, result)
            if attempt.bound_provider or not permits_failover(result):
                return _without_brand_health(attempt, await self._handle_result(attempt, provider, result))
            tried.append((provider, result))
        return await self._handle_result(attempt, *tried[-1]) if tried else _release_until_up(attempt)

    async def _write(self, provider: Provider, attempt: SendAttempt, content: MessageContent) -> OutgoingEmail:
        if _is_quick_to_write(content):
            return self._write_email(attempt, content, provider)
        await self._pacer.wait_turn(attempt.request.tenant, _content_size(content))
        CURRENT_CALLER.set(attempt.request.tenant)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._write_email, attempt, content, provider)

    def _write_email(self, attempt: SendAttempt, content: MessageContent, provider: Provider) -> OutgoingEmail:
        message = self._message_writer.message(attempt.request, content, attempt.brand, provider)
        mime_bytes = _signed_mime(message, attempt.routing, provider) if self._transport.takes_mime(provider) else b""
        envelope = self._message_writer.envelope(message)
        return OutgoingEmail(envelope, message, mime_bytes, attempt.lease.begin_contact)


def _is_quick_to_write(content: MessageContent) -> bool:
    """Return whether the message is small enough to be written in the event loop."""
    # Contents stored by older versions have no text part; making one from the HTML takes long.
    if content.html and not content.text:
        return False
    return _content_size(content) <= MAX_INLINE_CHARS


def _content_size(content: MessageContent) -> int:
    """Return the characters of the texts plus the bytes of the attachments."""
    texts = len(content.html) + len(content.text) + len(content.amp)
    return texts + sum(len(attachment.data) for attachment in content.attachments)


def _signed_mime(message: OutgoingMessage, routing: BrandRouting, provider: Provider) -> bytes:
    """Return the message as MIME, signed with DKIM unless the provider signs: some services change it before."""
    mime_bytes = mime.encode_message(message)
    if routing.dkim is None or provider.via != "smtp" or provider.kind not in SIGNED_PROVIDER_KINDS:
        return mime_bytes
    return dkim.sign(mime_bytes, routing.dkim, message.date)


def _without_brand_health(attempt: SendAttempt, result: JobResult) -> JobResult:
    """Return the result without its health if the brand has several providers.

    A failure then counts against the breaker of that provider (see ProviderRouter), not of the whole brand.
    """
    if attempt.routing.only_provider or result.health not in UNHEALTHY:
        return result
    return replace(
        result,
        health=EndpointHealth.SILENT,
        delay_s=max(result.delay_s, BOUND_RETRY_DELAY_S if not result.counts_as_attempt else 0.0),
    )


def _release_until_up(attempt: SendAttempt) -> JobResult:
    if attempt.bound_provider:
        return release(BOUND_RETRY_DELAY_S, f"{attempt.bound_provider}, which may have got it, is down")
    return release(1, ALL_PROVIDERS_DOWN, EndpointHealth.BROKEN)
