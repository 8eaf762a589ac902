"""The sandbox's provider: it accepts messages and plans their events; called by its SMTP side and its API."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pipeline.devstack.sandbox import event_plan
from pipeline.devstack.sandbox.address_patterns import RecipientBehaviour, SmtpRefusal, behaviour_of
from pipeline.devstack.sandbox.mailbox import SandboxMailbox, SandboxMessage, correlation_data
from pipeline.devstack.sandbox.reader_bot import ReaderBot
from pipeline.devstack.sandbox.webhook_sender import WebhookSender
from pipeline.runtime.ports import Clock

log = logging.getLogger(__name__)

MAX_COUNTED_ATTEMPTS: Final = 100_000
"""Keys whose attempts are counted; beyond it the count of the key that was used least recently is dropped."""

CallLater = Callable[[float, Callable[[], None]], Any]
"""A scheduler: it calls the function after so many seconds."""


class AttemptCounter:
    """A bounded count of attempts by key."""

    def __init__(self) -> None:
        self._counts: OrderedDict[object, int] = OrderedDict()

    def next(self, key: object) -> int:
        """Count an attempt and return its number, from 1."""
        self._counts[key] = self._counts.pop(key, 0) + 1
        if len(self._counts) > MAX_COUNTED_ATTEMPTS:
            self._counts.popitem(last=False)
        return self._counts[key]


class SandboxProvider:
    """The provider between SMTP and webhooks; ``pace`` is the number of seconds between planned events."""

    def __init__(
        self,
        mailbox: SandboxMailbox,
        webhook_sender: WebhookSender,
        reader_bot: ReaderBot,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        later: CallLater,
        pace: float,
    ) -> None:
        self.mailbox = mailbox
        self.webhook_sender = webhook_sender
        self._reader_bot = reader_bot
        self._clock = clock
        self._new_id = new_id
        self._later = later
        self._pace = pace
        self._attempts = AttemptCounter()
        self._visits: set[asyncio.Task[None]] = set()

    def should_refuse(self, refusal: SmtpRefusal | None, *attempt_of: object) -> bool:
        """Return whether to refuse this attempt; each call counts as one attempt of ``attempt_of``."""
        if refusal is None:
            return False
        return refusal.attempts is None or self._attempts.next((refusal, attempt_of)) <= refusal.attempts

    def accept(self, mail_from: str, recipients: tuple[str, ...], raw: bytes, *, tls: bool) -> SandboxMessage:
        """Keep a message and schedule the events and visits that each recipient's address asks for."""
        number = self.mailbox.next_number()
        queue_id = self._new_id().replace("-", "")
        message = SandboxMessage(number, queue_id, self._clock(), mail_from, recipients, tls, raw)
        self.mailbox.add(message)
        smtp_id, unique_args = correlation_data(raw)
        for index, address in enumerate(recipients):
            self._schedule(message, behaviour_of(address), _common_fields(message, index, smtp_id), unique_args)
        return message

    def send_event(
        self, message: SandboxMessage, recipient: str, name: str, extra: event_plan.SendGridEvent
    ) -> event_plan.SendGridEvent:
        """Send an event for a kept message at once, ``extra`` over its own fields, and return it as posted."""
        smtp_id, unique_args = correlation_data(message.raw)
        common = _common_fields(message, message.recipients.index(recipient), smtp_id)
        event = event_plan.sendgrid_event(
            name, self._clock(), self._event_id(), common=common, unique_args=unique_args, extra=extra
        )
        self.webhook_sender.pending += 1
        self._post(message, event)
        return event

    def _schedule(
        self,
        message: SandboxMessage,
        behaviour: RecipientBehaviour,
        common: event_plan.SendGridEvent,
        unique_args: event_plan.SendGridEvent,
    ) -> None:
        event_ids: dict[int, str] = {}
        for action in event_plan.planned_actions(behaviour, self._pace):
            # Planned actions are pending as well, so that their number is bounded.
            self.webhook_sender.pending += 1
            if isinstance(action, event_plan.PlannedVisit):
                self._later(action.due_after_s, partial(self._visit, message, action))
                continue
            event_id = event_ids.setdefault(action.number, self._event_id())
            occurred_at = message.received_at + int(action.occurred_after_s * 1000)
            event = event_plan.sendgrid_event(
                action.event, occurred_at, event_id, common=common, unique_args=unique_args, extra={}
            )
            post = partial(self._post_forged if action.forged else self._post, message, event)
            if action.due_after_s <= 0:
                post()
            else:
                self._later(action.due_after_s, post)

    def _post(self, message: SandboxMessage, event: event_plan.SendGridEvent) -> None:
        message.record(self._clock(), f"webhook: {event['event']}", event["event"])
        self.webhook_sender.put(event)

    def _post_forged(self, message: SandboxMessage, event: event_plan.SendGridEvent) -> None:
        message.record(self._clock(), f"webhook, forged: {event['event']}")
        self.webhook_sender.send_forged(event)

    def _visit(self, message: SandboxMessage, visit: event_plan.PlannedVisit) -> None:
        task = asyncio.create_task(self._reader_bot.perform(visit, message))
        self._visits.add(task)
        task.add_done_callback(self._finish_visit)

    def _finish_visit(self, task: "asyncio.Task[None]") -> None:
        self._visits.discard(task)
        self.webhook_sender.pending -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("recipient's visit failed: %s", type(error).__name__)

    def _event_id(self) -> str:
        return self._new_id().replace("-", "")


def _common_fields(message: SandboxMessage, index: int, smtp_id: str) -> event_plan.SendGridEvent:
    return {
        "email": message.recipients[index],
        "smtp-id": smtp_id,
        "sg_message_id": f"{message.queue_id}.recvd-sandbox-{message.number}.{index}",
    }
