"""How the sandbox treats a recipient, by words in the address; used by its SMTP side and its provider. Pure.

`anna+bounce-later+duplicated@example.test`: each part between the pluses is looked up in
:data:`PATTERNS`; a part that is no pattern is only a name. Steps happen in the order written.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final


@dataclass(frozen=True)
class SmtpRefusal:
    """An SMTP answer other than 250, given to the first ``attempts`` attempts; to all if None."""

    answer: str
    attempts: int | None = None


@dataclass(frozen=True)
class RecipientBehaviour:
    """The treatment of one recipient."""

    on_rcpt: SmtpRefusal | None = None
    on_data: SmtpRefusal | None = None
    hang_up: SmtpRefusal | None = None
    """Attempts at which the connection is closed instead of answering RCPT."""
    vanish: SmtpRefusal | None = None
    """Attempts at which the message is accepted, but the connection closed without an answer to the sender."""
    slow: float = 0.0
    """Seconds until RCPT is answered."""
    steps: tuple[str, ...] = ()
    """Events and visits after the acceptance, in order: keys of `EVENT_FIELDS` and `READER_ACTIONS` in event_plan."""
    silent: bool = False
    copies: int = 1
    """Times that each event is posted."""
    disordered: bool = False
    late: float = 0.0
    """Seconds by which events are posted later than they occurred."""
    forged: bool = False


BehaviourChange = Callable[[RecipientBehaviour, int], RecipientBehaviour]
"""A function that applies a word to a behaviour; its second argument is the word's number."""


@dataclass(frozen=True)
class AddressPattern:
    """A word in an address; ``means`` is its row in the documentation's table."""

    means: str
    change: BehaviourChange = field(repr=False)
    number: int | None = None
    """Number of a word written without one; None if the word takes no number."""


def _refusal(where: str, answer: str) -> BehaviourChange:
    return _flag(**{where: SmtpRefusal(answer)})


def _refusals(where: str, answer: str) -> BehaviourChange:
    # A bare `drop-connection` has the number 0, which means every attempt.
    return lambda behaviour, n: _flag(**{where: SmtpRefusal(answer, n or None)})(behaviour, n)


def _step(name: str) -> BehaviourChange:
    return lambda behaviour, _: replace(behaviour, steps=(*behaviour.steps, name))


def _flag(**values: Any) -> BehaviourChange:
    return lambda behaviour, _: replace(behaviour, **values)


PATTERNS: Final[dict[str, AddressPattern]] = {
    "delivered": AddressPattern("accepted, then `delivered` by webhook: what every address without a pattern gets",
                         _step("delivered")),
    "bounce": AddressPattern("refused at once on RCPT: `550 5.1.1`, a hard bounce",
                      _refusal("on_rcpt", "550 5.1.1 The email account that you tried to reach does not exist")),
    "bounce-soft": AddressPattern("refused at once on RCPT: `552 5.2.2`, mailbox full",
                           _refusal("on_rcpt", "552 5.2.2 The recipient's mailbox is over quota")),
    "bounce-data": AddressPattern("refused after DATA: `554 5.7.1`, content not liked",
                           _refusal("on_data", "554 5.7.1 Message rejected due to its content")),
    "bounce-later": AddressPattern("accepted, then a hard `bounce` by webhook", _step("bounce")),
    "blocked-later": AddressPattern("accepted, then a `bounce` of type `blocked` (soft) by webhook", _step("blocked")),
    "dropped-later": AddressPattern("accepted, then `dropped` by webhook: the provider's own suppression list",
                             _step("dropped")),
    "deferred": AddressPattern("`450 4.2.1` on RCPT to the first n attempts, then accepted",
                        _refusals("on_rcpt", "450 4.2.1 The user is receiving mail too quickly, try again later"), 1),
    "deferred-forever": AddressPattern("`451 4.7.1` on RCPT to every attempt",
                                _refusal("on_rcpt", "451 4.7.1 Greylisted, try again later")),
    "deferred-later": AddressPattern("accepted, then `deferred` by webhook", _step("deferred")),
    "slow": AddressPattern("answers RCPT after n seconds", lambda behaviour, n: replace(behaviour, slow=float(n)), 3),
    "drop-connection": AddressPattern(
        "closes the connection on RCPT, at the first n attempts (without n: at every one)",
                               _refusals("hang_up", ""), 0),
    "drop-after-data": AddressPattern("accepts the message and posts its events, but closes the connection without "
                                      "an answer, at the first n attempts (without n: at every one)",
                                      _refusals("vanish", ""), 0),
    "silent": AddressPattern("accepted, and no webhook ever", _flag(silent=True)),
    "open": AddressPattern("the recipient loads the images of the HTML part: our pixel, by a real GET, as Chrome would",
                    _step("open")),
    "open-machine": AddressPattern("the same, with a robot's User-Agent", _step("open-machine")),
    "open-webhook": AddressPattern("`open` by webhook: the provider's own tracking", _step("open-webhook")),
    "click": AddressPattern("the recipient follows the first link of the HTML part, by a real GET, as Chrome would",
                     _step("click")),
    "click-machine": AddressPattern("the same, with a robot's User-Agent", _step("click-machine")),
    "click-webhook": AddressPattern("`click` by webhook: the provider's own tracking", _step("click-webhook")),
    "complaint": AddressPattern("the recipient says spam: `spamreport` by webhook", _step("complaint")),
    "unsubscribe": AddressPattern("`unsubscribe` by webhook", _step("unsubscribe")),
    "duplicated": AddressPattern("every webhook event three times, with one `sg_event_id`", _flag(copies=3)),
    "disordered": AddressPattern("webhook events in reverse order", _flag(disordered=True)),
    "late": AddressPattern("webhook events n seconds later than they happened",
                    lambda behaviour, n: replace(behaviour, late=float(n)), 5),
    "forged": AddressPattern("a `bounce` besides, signed with another key: must be refused", _flag(forged=True)),
}  # fmt: skip

_NUMBERED_PATTERN: Final = re.compile(r"^(.+)-([0-9]{1,4})$")
_FINAL_EVENTS: Final = frozenset({"delivered", "bounce", "blocked", "dropped"})


def behaviour_of(address: str) -> RecipientBehaviour:
    """Return how the recipient at ``address`` is treated; upper and lower case are the same."""
    behaviour = RecipientBehaviour()
    for part in address.rpartition("@")[0].lower().split("+"):
        word, number = _parse_word(part)
        if word is not None:
            behaviour = PATTERNS[word].change(behaviour, number)
    if behaviour.silent or _FINAL_EVENTS.intersection(behaviour.steps):
        return behaviour
    return replace(behaviour, steps=("delivered", *behaviour.steps))


def _parse_word(part: str) -> tuple[str | None, int]:
    if part in PATTERNS:
        return part, PATTERNS[part].number or 0
    match = _NUMBERED_PATTERN.match(part)
    if match is None or match[1] not in PATTERNS or PATTERNS[match[1]].number is None:
        return None, 0
    return match[1], int(match[2])
