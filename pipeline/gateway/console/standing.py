"""Say in one sentence where an email stands, and why. Pure; the page of one email shows it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pipeline.gateway.console.timeline import reply_text
from pipeline.operations.pending import format_time
from projections.history_queries import EmailHistory
from topics.acks import Acked, Deferred
from topics.readings import EmailStatus, effective_state, email_status
from topics.record import Millis
from topics.states import EmailState, EventDetail, Mark
from topics.suppressions import SuppressionReason


@dataclass(frozen=True)
class EmailStanding:
    """The state of an email in a sentence."""

    status: EmailStatus
    sentence: str
    words: str = ""
    """What the other side said; text of strangers."""
    speaker: str = ""


SUPPRESSION_PREFIX: Final = "suppressed: "
REASON_OF_DROP: Final = {
    SuppressionReason.HARD_BOUNCE.value: "an earlier email to it bounced",
    SuppressionReason.SOFT_BOUNCE.value: "too many emails to it bounced in a row",
    SuppressionReason.COMPLAINT.value: "its owner reported an earlier email as spam",
    SuppressionReason.UNSUBSCRIBE.value: "its owner unsubscribed",
    SuppressionReason.MANUAL.value: "somebody decided so",
    "suppressed by the provider": "the provider has it on a list of its own",
}
"""What a drop's reason means, after "because"."""


def email_standing(history: EmailHistory) -> EmailStanding:
    """Return where the email of this history stands."""
    status, state = email_status(history.state), effective_state(history.state)
    return _STANDINGS[status](history, state)


def _when(mark: Mark | None) -> str:
    return "" if mark is None else f" at {_time(mark.first)}"


def _time(at: Millis) -> str:
    return f"{format_time(at)[:19]} UTC"


def _providers(history: EmailHistory) -> str:
    """Return the provider that took the email last; `the provider` where it is not known."""
    names = [entry.fact.provider for entry in history.timeline if isinstance(entry.fact, Acked) and entry.fact.provider]
    return names[-1] if names else "the provider"


def _accepted(history: EmailHistory, state: EmailState) -> EmailStanding:
    jobs = [job for job in history.jobs if job["queue"] == "dispatch" and job["state"] != "done"]
    why = next((f": {job['last_error']}" for job in jobs if job["last_error"]), "")
    sentence = f"Accepted{_when(state.accepted)}, and not handed to a provider yet"
    return EmailStanding(EmailStatus.ACCEPTED, sentence + (why or "."))


def _sent(history: EmailHistory, state: EmailState) -> EmailStanding:
    sentence = f"Handed to {_providers(history)}{_when(state.sent or state.queued)}; nothing final heard yet."
    return EmailStanding(EmailStatus.SENT, sentence)


def _deferred(history: EmailHistory, state: EmailState) -> EmailStanding:
    if state.delayed is not None:
        sentence = f"{_providers(history)} took it and could not deliver it yet{_when(state.delayed)}; it tries again."
        return EmailStanding(EmailStatus.DEFERRED, sentence)
    deferrals = [entry.fact for entry in history.timeline if isinstance(entry.fact, Deferred)]
    last = max(deferrals, key=lambda fact: fact.attempt, default=None)
    if last is None:
        return EmailStanding(EmailStatus.DEFERRED, "No provider took it yet; it is tried again.")
    sentence = (
        f"No provider took it yet: attempt {last.attempt} failed at {_time(last.occurred_at)}, "
        f"the next is due at {_time(last.next_attempt_at)}."
    )
    return EmailStanding(EmailStatus.DEFERRED, sentence, reply_text(last), last.provider)


def _delivered(history: EmailHistory, state: EmailState) -> EmailStanding:
    return EmailStanding(EmailStatus.DELIVERED, f"Delivered{_when(state.delivered)}; not opened by a person yet.")


def _opened(history: EmailHistory, state: EmailState) -> EmailStanding:
    return EmailStanding(EmailStatus.OPENED, f"{_delivery(state)}opened{_when(state.opened)}.")


def _clicked(history: EmailHistory, state: EmailState) -> EmailStanding:
    return EmailStanding(EmailStatus.CLICKED, f"{_delivery(state)}a link in it was followed{_when(state.clicked)}.")


def _delivery(state: EmailState) -> str:
    return f"Delivered{_when(state.delivered)}, and " if state.delivered is not None else "No delivery was reported; "


def _bounced(history: EmailHistory, state: EmailState) -> EmailStanding:
    detail = state.bounce
    kind = {"hard": "for good: the address does not work", "soft": "this time; the address may work later"}
    bounce_class = "" if detail is None or detail.bounce_class is None else detail.bounce_class.value
    why = f" It is refused {kind[bounce_class]}." if bounce_class else ""
    after = ", after it had been delivered" if state.delivered is not None else ""
    return _with_words(EmailStatus.BOUNCED, f"Bounced{_when(state.bounced)}{after}.{why}", detail)


def _complained(history: EmailHistory, state: EmailState) -> EmailStanding:
    sentence = f"The recipient reported it as spam{_when(state.complained)}."
    return _with_words(EmailStatus.COMPLAINED, sentence, state.complaint)


def _dropped(history: EmailHistory, state: EmailState) -> EmailStanding:
    detail = state.drop
    reason = "" if detail is None else detail.type.removeprefix(SUPPRESSION_PREFIX)
    why = REASON_OF_DROP.get(reason)
    because = f", because {why}." if why else f": {reason}." if reason else "."
    sentence = f"Not sent{_when(state.dropped)}: the address gets no mail{because}"
    return _with_words(EmailStatus.DROPPED, sentence, detail)


def _failed(history: EmailHistory, state: EmailState) -> EmailStanding:
    return _with_words(EmailStatus.FAILED, f"Could not be sent, and was given up{_when(state.failed)}.", state.failure)


def _unknown(history: EmailHistory, state: EmailState) -> EmailStanding:
    return EmailStanding(EmailStatus.UNKNOWN, "Only events of it have been seen, and not yet its send request.")


def _with_words(status: EmailStatus, sentence: str, detail: EventDetail | None) -> EmailStanding:
    if detail is None:
        return EmailStanding(status, sentence)
    return EmailStanding(status, sentence, reply_text(detail), detail.provider)


_STANDINGS: Final[dict[EmailStatus, Callable[[EmailHistory, EmailState], EmailStanding]]] = {
    EmailStatus.UNKNOWN: _unknown,
    EmailStatus.ACCEPTED: _accepted,
    EmailStatus.SENT: _sent,
    EmailStatus.DEFERRED: _deferred,
    EmailStatus.DELIVERED: _delivered,
    EmailStatus.OPENED: _opened,
    EmailStatus.CLICKED: _clicked,
    EmailStatus.DROPPED: _dropped,
    EmailStatus.FAILED: _failed,
    EmailStatus.BOUNCED: _bounced,
    EmailStatus.COMPLAINED: _complained,
}
