"""Suppression rules: which evidence a state gives about its address, and whether an address is suppressed. Pure.

Evidence is a row for each email and reason: emails of two partitions never write the same row, so they may be projected
in any order, and a row is deleted when its email's state no longer supports it. Whether an address is suppressed is
computed from all its evidence and the latest decision. `steps` and `suppressions` use it.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from projections.text import storable_text
from topics.events import BounceClass
from topics.readings import effective_state
from topics.record import EmailId, Millis
from topics.refusals import RefusalCause, judge_refusal
from topics.states import EmailState, EventDetail
from topics.suppressions import SuppressionReason

DAY_MS: Final = 86_400_000

HashAddress = Callable[[str], bytes]

AddressKey = tuple[str, str, bytes]
"""Tenant, brand, keyed hash of the address."""


class OldAddressHash(msgspec.Struct, frozen=True):
    """The hash that older versions made of an address, where it differs from today's."""

    digest: bytes
    shared: bool
    """True if another address has this hash today: then only rows from before today's keys count."""


class EvidenceKey(msgspec.Struct, frozen=True):
    """The key of a row of evidence: an email, its address and the reason."""

    tenant: str
    brand: str
    address_hash: bytes
    email_id: EmailId
    reason: SuppressionReason


class EvidenceOrigin(msgspec.Struct, frozen=True):
    """The event that a piece of evidence comes from, and when we recorded it."""

    at: Millis
    event_id: str = ""
    """Empty for an unsubscribe: states keep no event id of it, the timeline does."""


class Evidence(msgspec.Struct, frozen=True):
    """One email's evidence against an address."""

    at: Millis
    reason: SuppressionReason
    email_id: EmailId
    event_id: str


class AddressDecision(msgspec.Struct, frozen=True):
    """The latest decision about an address, for a brand or for all of them."""

    nth: int
    """The decision's offset on the log, which orders decisions; clocks do not."""
    brand: str
    at: Millis
    by: str
    reason: SuppressionReason | None = None
    """None for a lifted address."""
    note: str = ""


class SuppressionRule(msgspec.Struct, frozen=True):
    """The number of soft bounces within a number of days that suppresses an address."""

    soft_bounces: int
    """0 disables the rule."""
    days: int

    def since(self, now: Millis) -> Millis:
        """Return the time from which on soft bounces count."""
        return now - self.days * DAY_MS


class Suppression(msgspec.Struct, frozen=True, kw_only=True):
    """The reason why a brand sends no mail to an address."""

    reason: SuppressionReason
    since: Millis
    brand: str
    """The brand; `ALL_BRANDS` for a decision for all brands."""
    email_id: EmailId | None = None
    event_id: str = ""
    """Empty for a decision, as is ``email_id``."""
    by: str = ""
    note: str = ""

    @property
    def is_listed(self) -> bool:
        """Return whether an operator's decision suppresses the address."""
        return self.email_id is None

    @property
    def is_soft(self) -> bool:
        """Return whether only soft bounces suppress the address."""
        return self.reason is SuppressionReason.SOFT_BOUNCE and not self.is_listed

    @property
    def description(self) -> str:
        """Return the reason in words."""
        return f"listed, {self.reason}" if self.is_listed else self.reason.value


def evidence_of(state: EmailState | None, hash_address: HashAddress) -> dict[EvidenceKey, EvidenceOrigin]:
    """Return the evidence that an email gives about its address; none while its request is unknown."""
    if state is None or state.request is None:
        return {}
    origins = _origins_by_reason(state)
    if not origins:
        return {}
    request = state.request
    address_hash = hash_address(request.recipient)
    brand = storable_text(request.brand)
    return {
        EvidenceKey(request.tenant, brand, address_hash, state.email_id, reason): origin
        for reason, origin in origins.items()
    }


def _origins_by_reason(state: EmailState) -> dict[SuppressionReason, EvidenceOrigin]:
    state = effective_state(state)
    origins: dict[SuppressionReason, EvidenceOrigin] = {}
    if state.complaint is not None:
        origins[SuppressionReason.COMPLAINT] = _origin(state.complaint)
    if state.bounce is not None:
        if state.bounce.bounce_class is BounceClass.HARD:
            origins[SuppressionReason.HARD_BOUNCE] = _origin(state.bounce)
        elif blames_address(state.bounce):
            origins[SuppressionReason.SOFT_BOUNCE] = _origin(state.bounce)
    if state.unsubscribed is not None:
        # A recipient who unsubscribes again after an operator lifted the address is suppressed again; a late report of
        # the first time is not enough for that.
        at = max(state.unsubscribed.recorded, state.unsubscribed.last)
        origins[SuppressionReason.UNSUBSCRIBE] = EvidenceOrigin(at)
    return origins


def _origin(detail: EventDetail) -> EvidenceOrigin:
    return EvidenceOrigin(detail.recorded, detail.event_id)


# RFC 3463 §3.4 to §3.8: message too large for the system, protocol, content, policy; 1.7 and 1.8 blame the sender.
_SENDER_CODES: Final = re.compile(r"[245]\.(?:1\.[78]|3\.4|5\.\d+|6\.\d+|7\.\d+)")
_SENDER_WORDS: Final = re.compile(r"block|spam|content|policy|attach|large|size|dmarc|rejected", re.IGNORECASE)


def blames_address(soft: EventDetail) -> bool:
    """Return whether a soft bounce blames the mailbox, and not the sender or the message.

    A day on a blocklist makes mail to everybody bounce, which says nothing about any of these addresses.
    """
    if judge_refusal(soft.code, soft.enhanced, soft.text).cause in (RefusalCause.SETUP, RefusalCause.SENDER):
        return False
    if _SENDER_CODES.fullmatch(soft.enhanced):
        return False
    return not _SENDER_WORDS.search(f"{soft.type} {soft.subtype}")


def latest_decision(decisions: Iterable[AddressDecision]) -> AddressDecision | None:
    """Return the last decision, for one brand or for all, which replaces the earlier ones."""
    return max(decisions, key=lambda decision: decision.nth, default=None)


def suppression_for(
    brand: str,
    decision: AddressDecision | None,
    evidence: Iterable[Evidence],
    rule: SuppressionRule,
    *,
    soft_since: Millis,
) -> Suppression | None:
    """Return why ``brand`` sends no mail to an address, from its latest decision and its evidence; None if it does.

    Soft bounces count from ``soft_since`` on: the start of the rule's period, or the time at which the last email that
    was delivered there was sent.
    """
    if decision is not None and decision.reason is not None:
        return Suppression(
            reason=decision.reason, since=decision.at, brand=decision.brand, by=decision.by, note=decision.note
        )
    lifted_at = decision.at if decision is not None else -1
    counted = sorted((each for each in evidence if each.at > lifted_at), key=_order)
    cause = next((each for each in counted if each.reason is not SuppressionReason.SOFT_BOUNCE), None)
    if cause is None:
        cause = _deciding_soft_bounce([each for each in counted if each.at > soft_since], rule)
    if cause is None:
        return None
    return Suppression(
        reason=cause.reason, since=cause.at, brand=brand, email_id=cause.email_id, event_id=cause.event_id
    )


def _deciding_soft_bounce(soft: list[Evidence], rule: SuppressionRule) -> Evidence | None:
    """Return the soft bounce that reached the rule's number; None if there are fewer."""
    return soft[rule.soft_bounces - 1] if 0 < rule.soft_bounces <= len(soft) else None


def _order(evidence: Evidence) -> tuple[Millis, EmailId, str]:
    return evidence.at, evidence.email_id, evidence.reason.value
