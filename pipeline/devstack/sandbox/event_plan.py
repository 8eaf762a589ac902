"""The events and visits that follow an accepted message, and when; used by the provider and the API. Pure."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.devstack.sandbox.address_patterns import RecipientBehaviour

SendGridEvent = dict[str, Any]

_REASON: Final = "550 5.1.1 The email account that you tried to reach does not exist"

# Fields beside those of every event, as SendGrid's Event Webhook reference shows them:
# https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
EVENT_FIELDS: Final[dict[str, SendGridEvent]] = {
    "processed": {"event": "processed"},
    "delivered": {"event": "delivered", "response": "250 2.0.0 OK"},
    "deferred": {"event": "deferred", "response": "450 4.2.1 Try again later", "attempt": "1"},
    "bounce": {
        "event": "bounce",
        "type": "bounce",
        "bounce_classification": "Invalid Address",
        "status": "5.1.1",
        "reason": _REASON,
    },
    "blocked": {
        "event": "bounce",
        "type": "blocked",
        "bounce_classification": "Reputation",
        "status": "5.7.1",
        "reason": "550 5.7.1 Service unavailable, client host blocked",
    },
    "dropped": {"event": "dropped", "reason": "Bounced Address", "status": "5.0.0"},
    "complaint": {"event": "spamreport"},
    "unsubscribe": {"event": "unsubscribe"},
    "open-webhook": {"event": "open", "sg_machine_open": False},
    "click-webhook": {"event": "click", "url_offset": {"index": 0, "type": "html"}},
}
ReaderAction = Literal["open", "click"]
READER_ACTIONS: Final[dict[str, tuple[ReaderAction, bool]]] = {
    "open": ("open", False),
    "open-machine": ("open", True),
    "click": ("click", False),
    "click-machine": ("click", True),
}
"""Steps that the recipient takes by itself, and whether the recipient is a robot."""


@dataclass(frozen=True)
class PlannedEvent:
    """A webhook event, due and dated so many seconds after the message was accepted."""

    due_after_s: float
    event: str
    occurred_after_s: float
    number: int
    """Number of the event within the message; copies of an event share it, and with it their event id."""
    forged: bool = False


@dataclass(frozen=True)
class PlannedVisit:
    """A visit of the recipient, due so many seconds after the message was accepted."""

    due_after_s: float
    action: ReaderAction
    by_robot: bool


PlannedAction = PlannedEvent | PlannedVisit


def planned_actions(behaviour: RecipientBehaviour, pace: float) -> tuple[PlannedAction, ...]:
    """Return the actions that a behaviour asks for, one step every ``pace`` seconds, the first at once."""
    timed_steps = [(index * pace, step) for index, step in enumerate(behaviour.steps)]
    visits = [PlannedVisit(at, *READER_ACTIONS[step]) for at, step in timed_steps if step in READER_ACTIONS]
    event_steps = [(0.0, "processed"), *((at, step) for at, step in timed_steps if step in EVENT_FIELDS)]
    if behaviour.silent:
        event_steps = []
    due_times = [at for at, _ in event_steps]
    if behaviour.disordered:
        # Apart in time, because the events of one request have no order.
        count = len(event_steps)
        due_times = [max(due_times) + (count - index) * max(pace, 0.05) for index in range(count)]
    events = [
        PlannedEvent(due + behaviour.late + copy * pace, step, at, number)
        for number, ((at, step), due) in enumerate(zip(event_steps, due_times, strict=True))
        for copy in range(behaviour.copies)
    ]
    if behaviour.forged:
        events.append(PlannedEvent(0.0, "bounce", 0.0, len(event_steps), forged=True))
    return tuple(sorted((*events, *visits), key=lambda action: action.due_after_s))


def sendgrid_event(
    name: str,
    occurred_at: int,
    event_id: str,
    *,
    common: SendGridEvent,
    unique_args: SendGridEvent,
    extra: SendGridEvent,
) -> SendGridEvent:
    """Return one event of a SendGrid webhook; its unique arguments are at the top level, as SendGrid sends them.

    ``occurred_at`` is in milliseconds since 1970.
    """
    return {
        **unique_args,
        **common,
        **EVENT_FIELDS[name],
        "timestamp": occurred_at // 1000,
        "sg_event_id": event_id,
        **extra,
    }
