"""What happens to an accepted email, and when: a behaviour in, timed actions out; SendGrid's event fields. Pure."""

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
"""What the recipient does by itself, and whether a robot does it."""


@dataclass(frozen=True)
class PlannedEvent:
    """A webhook event, due so many seconds after the acceptance; ``told`` is when it happened."""

    due_after_s: float
    event: str
    occurred_after_s: float
    number: int
    """Which event of the email this is; its copies share it, and with it their event id."""
    forged: bool = False


@dataclass(frozen=True)
class PlannedVisit:
    """A deed of the recipient, due so many seconds after the acceptance."""

    due_after_s: float
    action: ReaderAction
    by_robot: bool


PlannedAction = PlannedEvent | PlannedVisit


def planned_actions(behaviour: RecipientBehaviour, pace: float) -> tuple[PlannedAction, ...]:
    """The story as actions, a step each ``pace`` seconds; the first step comes at once."""
    moments = [(index * pace, step) for index, step in enumerate(behaviour.steps)]
    visits = [PlannedVisit(at, *READER_ACTIONS[step]) for at, step in moments if step in READER_ACTIONS]
    told = (
        [] if behaviour.silent else [(0.0, "processed"), *((at, step) for at, step in moments if step in EVENT_FIELDS)]
    )
    due = [at for at, _ in told]
    if behaviour.disordered:
        # Apart in time, or one batch would carry them and nobody could tell their order.
        due = [max(due) + (len(told) - index) * max(pace, 0.05) for index in range(len(told))]
    posts = [
        PlannedEvent(moment + behaviour.late + copy * pace, step, at, number)
        for number, ((at, step), moment) in enumerate(zip(told, due, strict=True))
        for copy in range(behaviour.copies)
    ]
    if behaviour.forged:
        posts.append(PlannedEvent(0.0, "bounce", 0.0, len(told), forged=True))
    return tuple(sorted((*posts, *visits), key=lambda action: action.due_after_s))


def sendgrid_event(
    name: str, told_at: int, event_id: str, *, common: SendGridEvent, unique_args: SendGridEvent, extra: SendGridEvent
) -> SendGridEvent:
    """One object of SendGrid's webhook array; unique arguments stand at its top level, as they do there."""
    return {
        **unique_args,
        **common,
        **EVENT_FIELDS[name],
        "timestamp": told_at // 1000,
        "sg_event_id": event_id,
        **extra,
    }
