"""The provider itself: an SMTP transaction in; an answer, and the story that its recipient's address asks for, out."""

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
"""Refused attempts that are counted; the oldest are forgotten."""

CallLater = Callable[[float, Callable[[], None]], Any]
"""The schedule: calls back after so many seconds."""


class AttemptCounter:
    """How often something was tried."""

    def __init__(self) -> None:
        self._counts: OrderedDict[object, int] = OrderedDict()

    def next(self, what: object) -> int:
        """The number of this attempt, from 1."""
        self._counts[what] = self._counts.pop(what, 0) + 1
        if len(self._counts) > MAX_COUNTED_ATTEMPTS:
            self._counts.popitem(last=False)
        return self._counts[what]


class SandboxProvider:
    """Everything between SMTP and webhooks."""

    def __init__(
        self,
        mailbox: SandboxMailbox,
        courier: WebhookSender,
        recipient: ReaderBot,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        later: CallLater,
        pace: float,
    ) -> None:
        self.mailbox = mailbox
        self.webhook_sender = courier
        self._recipient = recipient
        self._clock = clock
        self._new_id = new_id
        self._later = later
        self._pace = pace
        self._attempts = AttemptCounter()
        self._visits: set[asyncio.Task[None]] = set()

    def should_refuse(self, refusal: SmtpRefusal | None, *attempt_of: object) -> bool:
        """Whether this attempt is to be refused; each call is one attempt."""
        if refusal is None:
            return False
        return refusal.attempts is None or self._attempts.next((refusal, attempt_of)) <= refusal.attempts

    def accept(self, mail_from: str, recipients: tuple[str, ...], raw: bytes, *, tls: bool) -> SandboxMessage:
        """Accept a message: keep it and begin each recipient's story."""
        number = self.mailbox.next_number()
        queue_id = self._new_id().replace("-", "")
        message = SandboxMessage(number, queue_id, self._clock(), mail_from, recipients, tls, raw)
        self.mailbox.add(message)
        smtp_id, unique_args = correlation_data(raw)
        for index, address in enumerate(recipients):
            self._begin(message, behaviour_of(address), _common(message, index, smtp_id), unique_args)
        return message

    def send_event(
        self, message: SandboxMessage, recipient: str, name: str, extra: event_plan.SendGridEvent
    ) -> event_plan.SendGridEvent:
        """Send an event for a kept message now; the event as posted."""
        smtp_id, unique_args = correlation_data(message.raw)
        common = _common(message, message.recipients.index(recipient), smtp_id)
        made = event_plan.sendgrid_event(
            name, self._clock(), self._event_id(), common=common, unique_args=unique_args, extra=extra
        )
        self.webhook_sender.pending += 1
        self._put(message, made)
        return made

    def _begin(
        self,
        message: SandboxMessage,
        behaviour: RecipientBehaviour,
        common: event_plan.SendGridEvent,
        unique_args: event_plan.SendGridEvent,
    ) -> None:
        event_ids: dict[int, str] = {}
        for action in event_plan.planned_actions(behaviour, self._pace):
            # Each planned action counts until it is done: what is planned is bounded, too.
            self.webhook_sender.pending += 1
            if isinstance(action, event_plan.PlannedVisit):
                self._later(action.due_after_s, partial(self._visit, message, action))
                continue
            event_id = event_ids.setdefault(action.number, self._event_id())
            told_at = message.received_at + int(action.occurred_after_s * 1000)
            event = event_plan.sendgrid_event(
                action.event, told_at, event_id, common=common, unique_args=unique_args, extra={}
            )
            post = partial(self._forge if action.forged else self._put, message, event)
            if action.due_after_s <= 0:
                post()
            else:
                self._later(action.due_after_s, post)

    def _put(self, message: SandboxMessage, event: event_plan.SendGridEvent) -> None:
        message.event_history.append(f"webhook: {event['event']}")
        self.webhook_sender.put(event)

    def _forge(self, message: SandboxMessage, event: event_plan.SendGridEvent) -> None:
        message.event_history.append(f"webhook, forged: {event['event']}")
        self.webhook_sender.send_forged(event)

    def _visit(self, message: SandboxMessage, visit: event_plan.PlannedVisit) -> None:
        task = asyncio.create_task(self._recipient.perform(visit, message))
        self._visits.add(task)
        task.add_done_callback(self._visited)

    def _visited(self, task: "asyncio.Task[None]") -> None:
        self._visits.discard(task)
        self.webhook_sender.pending -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a visit went wrong: %s", type(error).__name__)

    def _event_id(self) -> str:
        return self._new_id().replace("-", "")


def _common(message: SandboxMessage, index: int, smtp_id: str) -> event_plan.SendGridEvent:
    return {
        "email": message.recipients[index],
        "smtp-id": smtp_id,
        "sg_message_id": f"{message.queue_id}.recvd-sandbox-{message.number}.{index}",
    }
