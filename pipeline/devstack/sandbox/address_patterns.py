"""What an address asks for: a local part in, how to answer it and the story that follows out. Pure.

`anna+bounce-later+duplicated@example.test`: every part between the pluses is looked up in
:data:`PATTERNS`; a part that is no pattern is just a name. Story steps play in the order written.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final


@dataclass(frozen=True)
class SmtpRefusal:
    """An SMTP answer other than 250, and to how many attempts; None: to every one."""

    answer: str
    attempts: int | None = None


@dataclass(frozen=True)
class RecipientBehaviour:
    """How one recipient is treated."""

    on_rcpt: SmtpRefusal | None = None
    on_data: SmtpRefusal | None = None
    hang_up: SmtpRefusal | None = None
    """Closes the connection instead of answering RCPT."""
    vanish: SmtpRefusal | None = None
    """Takes the message, then closes the connection without an answer: the sender can't know."""
    slow: float = 0.0
    steps: tuple[str, ...] = ()
    """Events and deeds after the acceptance, in order: keys of :data:`pipeline.devstack.sandbox.event_plan.STEPS`."""
    silent: bool = False
    copies: int = 1
    disordered: bool = False
    late: float = 0.0
    forged: bool = False


BehaviourChange = Callable[[RecipientBehaviour, int], RecipientBehaviour]
"""A behaviour and the word's number in, the behaviour with this word out."""


@dataclass(frozen=True)
class AddressPattern:
    """A word in an address, what it means (the documentation's own text), its number where none is given."""

    means: str
    change: BehaviourChange = field(repr=False)
    number: int | None = None
    """The default of ``word-n``; None where the word takes no number."""


def _refusal(where: str, answer: str) -> BehaviourChange:
    return _flag(**{where: SmtpRefusal(answer)})


def _refusals(where: str, answer: str) -> BehaviourChange:
    # 0 is "every attempt": what a bare `drop-connection` means.
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
    "drop-after-data": AddressPattern("takes the message and tells its story, but closes the connection without an "
                               "answer, at the first n attempts (without n: at every one)", _refusals("vanish", ""), 0),
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
    """How the recipient at ``address`` is treated; case doesn't matter."""
    behaviour = RecipientBehaviour()
    for part in address.rpartition("@")[0].lower().split("+"):
        word, number = _word(part)
        if word is not None:
            behaviour = PATTERNS[word].change(behaviour, number)
    if behaviour.silent or _FINAL_EVENTS.intersection(behaviour.steps):
        return behaviour
    return replace(behaviour, steps=("delivered", *behaviour.steps))


def _word(part: str) -> tuple[str | None, int]:
    if part in PATTERNS:
        return part, PATTERNS[part].number or 0
    numbered = _NUMBERED_PATTERN.match(part)
    if numbered is None or numbered[1] not in PATTERNS or PATTERNS[numbered[1]].number is None:
        return None, 0
    return numbered[1], int(numbered[2])
