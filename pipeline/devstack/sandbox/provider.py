"""The provider itself: an SMTP transaction in; an answer, and the story that its recipient's address asks for, out."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pipeline.devstack.sandbox import event_plan
from pipeline.devstack.sandbox.address_patterns import Behaviour, Refusal, behaviour_of
from pipeline.devstack.sandbox.mailbox import Mailbox, Message, correlation
from pipeline.devstack.sandbox.reader_bot import Recipient
from pipeline.devstack.sandbox.webhook_sender import Courier
from pipeline.runtime.ports import Clock

log = logging.getLogger(__name__)

REMEMBERED: Final = 100_000
"""Refused attempts that are counted; the oldest are forgotten."""

Later = Callable[[float, Callable[[], None]], Any]
"""The schedule: calls back after so many seconds."""


class Attempts:
    """How often something was tried."""

    def __init__(self) -> None:
        self._counts: OrderedDict[object, int] = OrderedDict()

    def next(self, what: object) -> int:
        """The number of this attempt, from 1."""
        self._counts[what] = self._counts.pop(what, 0) + 1
        if len(self._counts) > REMEMBERED:
            self._counts.popitem(last=False)
        return self._counts[what]


class Provider:
    """Everything between SMTP and webhooks."""

    def __init__(
        self,
        mailbox: Mailbox,
        courier: Courier,
        recipient: Recipient,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        later: Later,
        pace: float,
    ) -> None:
        self.mailbox = mailbox
        self.courier = courier
        self._recipient = recipient
        self._clock = clock
        self._new_id = new_id
        self._later = later
        self._pace = pace
        self._attempts = Attempts()
        self._visits: set[asyncio.Task[None]] = set()

    def applies(self, refusal: Refusal | None, *attempt_of: object) -> bool:
        """Whether this attempt is to be refused; each call is one attempt."""
        if refusal is None:
            return False
        return refusal.attempts is None or self._attempts.next((refusal, attempt_of)) <= refusal.attempts

    def take(self, mail_from: str, recipients: tuple[str, ...], raw: bytes, *, tls: bool) -> Message:
        """Accept a message: keep it and begin each recipient's story."""
        number = self.mailbox.next_number()
        queue_id = self._new_id().replace("-", "")
        message = Message(number, queue_id, self._clock(), mail_from, recipients, tls, raw)
        self.mailbox.add(message)
        smtp_id, unique_args = correlation(raw)
        for index, address in enumerate(recipients):
            self._begin(message, behaviour_of(address), _common(message, index, smtp_id), unique_args)
        return message

    def tell(self, message: Message, recipient: str, name: str, extra: event_plan.Event) -> event_plan.Event:
        """Send an event for a kept message now; the event as posted."""
        smtp_id, unique_args = correlation(message.raw)
        common = _common(message, message.recipients.index(recipient), smtp_id)
        made = event_plan.event(
            name, self._clock(), self._event_id(), common=common, unique_args=unique_args, extra=extra
        )
        self.courier.pending += 1
        self._put(message, made)
        return made

    def _begin(
        self, message: Message, behaviour: Behaviour, common: event_plan.Event, unique_args: event_plan.Event
    ) -> None:
        event_ids: dict[int, str] = {}
        for action in event_plan.script(behaviour, self._pace):
            # Each planned action counts until it is done: what is planned is bounded, too.
            self.courier.pending += 1
            if isinstance(action, event_plan.Visit):
                self._later(action.due, partial(self._visit, message, action))
                continue
            event_id = event_ids.setdefault(action.number, self._event_id())
            told_at = message.received_at + int(action.told * 1000)
            event = event_plan.event(action.event, told_at, event_id, common=common, unique_args=unique_args, extra={})
            post = partial(self._forge if action.forged else self._put, message, event)
            if action.due <= 0:
                post()
            else:
                self._later(action.due, post)

    def _put(self, message: Message, event: event_plan.Event) -> None:
        message.told.append(f"webhook: {event['event']}")
        self.courier.put(event)

    def _forge(self, message: Message, event: event_plan.Event) -> None:
        message.told.append(f"webhook, forged: {event['event']}")
        self.courier.forge(event)

    def _visit(self, message: Message, visit: event_plan.Visit) -> None:
        task = asyncio.create_task(self._recipient.do(visit, message))
        self._visits.add(task)
        task.add_done_callback(self._visited)

    def _visited(self, task: "asyncio.Task[None]") -> None:
        self._visits.discard(task)
        self.courier.pending -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a visit went wrong: %s", type(error).__name__)

    def _event_id(self) -> str:
        return self._new_id().replace("-", "")


def _common(message: Message, index: int, smtp_id: str) -> event_plan.Event:
    return {
        "email": message.recipients[index],
        "smtp-id": smtp_id,
        "sg_message_id": f"{message.queue_id}.recvd-sandbox-{message.number}.{index}",
    }
