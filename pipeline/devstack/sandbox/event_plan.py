"""What happens to an accepted email, and when: a behaviour in, timed actions out; SendGrid's event fields. Pure."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from pipeline.devstack.sandbox.address_patterns import Behaviour

Event = dict[str, Any]

_REASON: Final = "550 5.1.1 The email account that you tried to reach does not exist"

# Fields beside those of every event, as SendGrid's Event Webhook reference shows them:
# https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event
EVENTS: Final[dict[str, Event]] = {
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
Deed = Literal["open", "click"]
DEEDS: Final[dict[str, tuple[Deed, bool]]] = {
    "open": ("open", False),
    "open-machine": ("open", True),
    "click": ("click", False),
    "click-machine": ("click", True),
}
"""What the recipient does by itself, and whether a robot does it."""


@dataclass(frozen=True)
class Post:
    """A webhook event, due so many seconds after the acceptance; ``told`` is when it happened."""

    due: float
    event: str
    told: float
    number: int
    """Which event of the email this is; its copies share it, and with it their event id."""
    forged: bool = False


@dataclass(frozen=True)
class Visit:
    """A deed of the recipient, due so many seconds after the acceptance."""

    due: float
    deed: Deed
    robot: bool


Action = Post | Visit


def script(behaviour: Behaviour, pace: float) -> tuple[Action, ...]:
    """The story as actions, a step each ``pace`` seconds; the first step comes at once."""
    moments = [(index * pace, step) for index, step in enumerate(behaviour.story)]
    visits = [Visit(at, *DEEDS[step]) for at, step in moments if step in DEEDS]
    told = [] if behaviour.silent else [(0.0, "processed"), *((at, step) for at, step in moments if step in EVENTS)]
    due = [at for at, _ in told]
    if behaviour.disordered:
        # Apart in time, or one batch would carry them and nobody could tell their order.
        due = [max(due) + (len(told) - index) * max(pace, 0.05) for index in range(len(told))]
    posts = [
        Post(moment + behaviour.late + copy * pace, step, at, number)
        for number, ((at, step), moment) in enumerate(zip(told, due, strict=True))
        for copy in range(behaviour.copies)
    ]
    if behaviour.forged:
        posts.append(Post(0.0, "bounce", 0.0, len(told), forged=True))
    return tuple(sorted((*posts, *visits), key=lambda action: action.due))


def event(name: str, told_at: int, event_id: str, *, common: Event, unique_args: Event, extra: Event) -> Event:
    """One object of SendGrid's webhook array; unique arguments stand at its top level, as they do there."""
    return {
        **unique_args,
        **common,
        **EVENTS[name],
        "timestamp": told_at // 1000,
        "sg_event_id": event_id,
        **extra,
    }
