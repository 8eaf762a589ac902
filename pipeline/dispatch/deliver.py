"""A leased `send` job in, an email at its provider and an ack on the log out.

In this order: whose it is, whether the address is suppressed, the content, the message, the
conversation, the ack on `provider-acks`, and only then the verdict that closes the job.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipeline import admin
from pipeline.admin import Brand, Provider
from pipeline.bootstrap import Runtime
from pipeline.carriers import replies
from pipeline.carriers.port import Answer, Carrier, Mail, Meaning
from pipeline.content import mime
from pipeline.crashpoints import crash_point
from pipeline.dispatch.contents import Contents, place
from pipeline.dispatch.intake import SQL
from pipeline.dispatch.message import Writer
from pipeline.errors import NotFound, Unrecognised
from pipeline.outbox.append import append_until_confirmed
from pipeline.outbox.coalesce import Coalesced
from pipeline.outbox.engine import Lease
from pipeline.outbox.job import DONE, Job, Lane, Verdict, bury, give_back, hold, retry
from pipeline.outbox.remember import Remembered
from pipeline.outbox.schedule import next_delay, not_before
from pipeline.ports import Entry
from pipeline.suppressions.asking import Asking
from projections.suppressing import AddressKey
from topics.acks import Ack, Acked, Deferred, Dropped, Failed, Rejected
from topics.codec import decode
from topics.dead_letters import DeadLetter
from topics.ids import event_id
from topics.record import Place
from topics.registry import DEAD_LETTERS, PROVIDER_ACKS, SEND_REQUESTS
from topics.requests import SendRequest

NO_PROVIDER: Final = "no provider"
"""Why a lane waits; it goes on by itself when its brand gets one."""


@dataclass(frozen=True)
class _Attempt:
    """One job on its way through this room."""

    job: Job
    lease: Lease
    request: SendRequest
    brand: Brand
    provider: Provider


class Deliver:
    """The dispatcher's work."""

    def __init__(
        self, rt: Runtime, carrier: Carrier, contents: Contents, rand: Callable[[], float] = random.random
    ) -> None:
        secret = rt.settings.secret.get_secret_value()
        self._rt = rt
        self._settings = rt.settings
        self._carrier = carrier
        self._contents = contents
        self._random = rand
        self._writer = Writer(rt.settings, rt.clock)
        self._asking = Asking(rt)
        self._brands: Remembered[tuple[str, str], Brand] = Remembered(lambda key: admin.get_brand(rt.pool, *key))
        self._providers: Remembered[str, Provider] = Remembered(lambda name: admin.get_provider(rt.pool, name, secret))
        self._suppressed: Coalesced[AddressKey, str] = Coalesced(self._ask_suppressed)
        self._heard_of: Coalesced[str, bool] = Coalesced(self._ask_heard_of)

    async def __call__(self, job: Job, lease: Lease) -> Verdict:
        """Send one email, once."""
        request: SendRequest = decode(SEND_REQUESTS, job.payload)
        try:
            brand = await self._brands.get((request.tenant, request.brand))
            provider = await self._providers.get(brand.provider)
        except NotFound:
            return give_back(0, NO_PROVIDER, pause=NO_PROVIDER)
        attempt = _Attempt(job, lease, request, brand, provider)
        if job.attempt > 1 and await self._heard_of.get(request.email_id):
            # The attempt before, whose end nobody saw, did arrive: neither send again nor call it dropped
            # because its own complaint has suppressed the address meanwhile.
            await self._append(self._ack(Acked, attempt, text="its own events tell that it was sent"))
            return Verdict(DONE.state, lane=Lane.SILENT)
        if job.unknown and brand.unknown_policy == "hold":
            return hold("a dispatcher fell silent while it was sending; it may have been sent")
        if why := await self._suppressed.get(self._asking.key(request.tenant, request.brand, request.recipient)):
            if job.unknown:
                return hold("it may have been sent before its address was suppressed")
            await self._append(self._ack(Dropped, attempt, reason=f"suppressed: {why}"))
            return Verdict(DONE.state, lane=Lane.SILENT)
        return await self._send(attempt)

    async def _send(self, attempt: _Attempt) -> Verdict:
        request = attempt.request
        if request.content is None:
            return await self._fail(attempt, "no content", "the request points to no content")
        try:
            content = await self._contents.get(request.content)
        except Unrecognised as error:
            return await self._fail(attempt, "content", str(error), place(request.content))
        letter = self._writer.letter(request, content, attempt.brand, attempt.provider)
        message = mime.written(letter) if self._carrier.takes_mime(attempt.provider) else b""
        mail = Mail(self._writer.envelope(letter), letter, message, attempt.lease.contact)
        answer = await self._carrier.send(attempt.provider, mail)
        return await self._conclude(attempt, answer)

    async def _conclude(self, attempt: _Attempt, answer: Answer) -> Verdict:
        meaning = answer.meaning
        said = self._words(attempt, answer)
        error = f"{answer.stage} {answer.code or ''} {said['text']}"
        if meaning is Meaning.TAKEN:
            return await self._taken(attempt, answer, said)
        if meaning is Meaning.MISCONFIGURED:
            return give_back(1, f"provider {attempt.provider.provider}: {error}", Lane.BROKEN)
        if meaning is Meaning.REJECTED:
            await self._append(self._ack(Rejected, attempt, **said))
            return DONE
        if meaning is Meaning.DROPPED:
            await self._append(self._ack(Dropped, attempt, reason="suppressed by the provider", **said))
            return DONE
        if meaning is Meaning.REFUSED:
            return await self._fail(attempt, "refused", error, **said)
        if meaning is Meaning.UNKNOWN and attempt.brand.unknown_policy == "hold":
            return hold(f"it may have been sent: {error}")
        return await self._later(attempt, answer, error, said)

    async def _taken(self, attempt: _Attempt, answer: Answer, said: Mapping[str, Any]) -> Verdict:
        crash_point("dispatch.after-250")
        ack = self._ack(
            Acked,
            attempt,
            provider_message_id=answer.provider_message_id,
            means_delivered=attempt.provider.means_delivered,
            **said,
        )
        await self._append(ack)
        crash_point("dispatch.after-ack")
        return DONE

    async def _later(self, attempt: _Attempt, answer: Answer, error: str, said: Mapping[str, Any]) -> Verdict:
        delay = next_delay(self._settings.dispatch_schedule, attempt.job.tries, self._random)
        lane = answer.lane
        if delay is None:
            await self._append(self._ack(Failed, attempt, reason="gave up", **said))
            return bury(f"gave up: {error}", lane)
        delay = max(delay, not_before(answer.retry_after, self._random))
        due = self._rt.clock() + int(delay * 1000)
        await self._append(self._ack(Deferred, attempt, next_attempt_at=due, **said))
        return retry(delay, error, lane)

    async def _fail(
        self, attempt: _Attempt, reason: str, error: str, source: Place | None = None, **said: Any
    ) -> Verdict:
        """A dead letter, and a failure that the caller hears of."""
        entries = [Entry(PROVIDER_ACKS, attempt.request.email_id, self._ack(Failed, attempt, reason=reason, **said))]
        if source is not None:
            entries.append(Entry(DEAD_LETTERS, None, self._letter(attempt, source, reason, error)))
        await append_until_confirmed(self._rt.log, entries)
        return bury(f"{reason}: {error}", Lane.SILENT)

    # ------------------------------------------------------------- the record
    def _ack(self, kind: type[Any], attempt: _Attempt, **values: Any) -> Ack:
        now = self._rt.clock()
        name = kind.__name__.lower()
        ack: Ack = kind(
            email_id=attempt.request.email_id,
            event_id=event_id("dispatch", attempt.request.email_id, name, str(attempt.job.attempt)),
            occurred_at=now,
            recorded_at=now,
            provider=attempt.provider.provider,
            attempt=attempt.job.attempt,
            **values,
        )
        return ack

    def _words(self, attempt: _Attempt, answer: Answer) -> dict[str, Any]:
        text = replies.redacted(answer.text, attempt.request.recipient)
        return {"code": max(answer.code, 0), "enhanced": replies.enhanced(text), "text": text}

    def _letter(self, attempt: _Attempt, source: Place, reason: str, error: str) -> DeadLetter:
        return DeadLetter(
            source=source,
            recorded_at=self._rt.clock(),
            reason=reason,
            error=error,
            role="dispatch",
            key=attempt.request.email_id.encode(),
            value=attempt.job.payload,
        )

    async def _append(self, ack: Ack) -> None:
        await append_until_confirmed(self._rt.log, [Entry(PROVIDER_ACKS, ack.email_id, ack)])

    # ---------------------------------------------------- what is known by now
    async def _ask_heard_of(self, email_ids: set[str]) -> dict[str, bool]:
        async with self._rt.pool.connection() as connection:
            rows = await (await connection.execute(SQL["heard_of"], {"email_ids": list(email_ids)})).fetchall()
        found = {email_id for (email_id,) in rows}
        return {email_id: email_id in found for email_id in email_ids}

    async def _ask_suppressed(self, keys: set[AddressKey]) -> dict[AddressKey, str]:
        found = await self._asking.suppressed(list(keys))
        return {key: found[key].words if key in found else "" for key in keys}
