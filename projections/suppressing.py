"""Suppressions: what a state tells of its address; all that is told and decided in, whether to write out. Pure.

What emails tell is kept as evidence, a row for each email and reason: emails of two partitions
never write the same row, so they may come in any order, and a row goes when its email's state no
longer says so. Whether an address gets mail is read from all of its rows and the latest decision.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from projections.text import storable_text
from topics.events import BounceClass
from topics.readings import effective_state
from topics.record import EmailId, Millis
from topics.states import EmailState, EventDetail
from topics.suppressions import SuppressionReason
from topics.verdict import RefusalCause, judge_refusal

DAY_MS: Final = 86_400_000

HashAddress = Callable[[str], bytes]

AddressKey = tuple[str, str, bytes]
"""Tenant, brand, keyed hash of the address."""


class OldAddressHash(msgspec.Struct, frozen=True):
    """The hash that older versions made of an address, where it differs from today's."""

    digest: bytes
    shared: bool
    """Another address has this very hash today: only what was known before today's keys counts."""


class EvidenceKey(msgspec.Struct, frozen=True):
    """Which email tells what of which address."""

    tenant: str
    brand: str
    address_hash: bytes
    email_id: EmailId
    reason: SuppressionReason


class EvidenceOrigin(msgspec.Struct, frozen=True):
    """From which event it is known and since when, by our clock."""

    at: Millis
    event_id: str = ""
    """Empty for an unsubscribe: states keep no event of it, the timeline has it."""


class Evidence(msgspec.Struct, frozen=True):
    """One email's sign, as a verdict needs it."""

    at: Millis
    reason: SuppressionReason
    email_id: EmailId
    event_id: str


class AddressDecision(msgspec.Struct, frozen=True):
    """The latest decision about an address, for a brand or for all of them."""

    nth: int
    """Its place on the log: what comes later is later, whatever clocks say."""
    brand: str
    at: Millis
    by: str
    reason: SuppressionReason | None = None
    """None: lifted."""
    note: str = ""


class SuppressionRule(msgspec.Struct, frozen=True):
    """When soft bounces are enough."""

    soft_bounces: int
    """0: never."""
    days: int

    def since(self, now: Millis) -> Millis:
        """What is older no longer counts."""
        return now - self.days * DAY_MS


class Suppression(msgspec.Struct, frozen=True, kw_only=True):
    """Why a brand doesn't write to an address."""

    reason: SuppressionReason
    since: Millis
    brand: str
    """What was decided for all brands has all brands' name here."""
    email_id: EmailId | None = None
    event_id: str = ""
    """Both are empty for a decision."""
    by: str = ""
    note: str = ""

    @property
    def is_listed(self) -> bool:
        """Whether somebody decided it."""
        return self.email_id is None

    @property
    def is_soft(self) -> bool:
        """Whether soft bounces alone are it."""
        return self.reason is SuppressionReason.SOFT_BOUNCE and not self.is_listed

    @property
    def description(self) -> str:
        """For people."""
        return f"listed, {self.reason}" if self.is_listed else self.reason.value


def evidence_of(state: EmailState | None, hash_address: HashAddress) -> dict[EvidenceKey, EvidenceOrigin]:
    """What this email tells of its address; nothing before its request says whose it is."""
    if state is None or state.request is None:
        return {}
    told = _told(state)
    if not told:
        return {}
    request = state.request
    address_hash = hash_address(request.recipient)
    brand = storable_text(request.brand)
    return {
        EvidenceKey(request.tenant, brand, address_hash, state.email_id, reason): sign for reason, sign in told.items()
    }


def _told(state: EmailState) -> dict[SuppressionReason, EvidenceOrigin]:
    state = effective_state(state)
    found: dict[SuppressionReason, EvidenceOrigin] = {}
    if state.complaint is not None:
        found[SuppressionReason.COMPLAINT] = _sign(state.complaint)
    if state.bounce is not None:
        if state.bounce.bounce_class is BounceClass.HARD:
            found[SuppressionReason.HARD_BOUNCE] = _sign(state.bounce)
        elif blames_address(state.bounce):
            found[SuppressionReason.SOFT_BOUNCE] = _sign(state.bounce)
    if state.unsubscribed is not None:
        # Whoever unsubscribes again, from an old email, after somebody lifted it, means it; a late
        # report of the first time doesn't.
        found[SuppressionReason.UNSUBSCRIBE] = EvidenceOrigin(max(state.unsubscribed.recorded, state.unsubscribed.last))
    return found


def _sign(detail: EventDetail) -> EvidenceOrigin:
    return EvidenceOrigin(detail.recorded, detail.event_id)


# RFC 3463 §3.4 to §3.8: system too small for it or full, protocol, content, policy; 1.7 and 1.8 blame the sender.
_OURS_ENHANCED: Final = re.compile(r"[245]\.(?:1\.[78]|3\.4|5\.\d+|6\.\d+|7\.\d+)")
_OURS_WORDS: Final = re.compile(r"block|spam|content|policy|attach|large|size|dmarc|rejected", re.IGNORECASE)


def blames_address(soft: EventDetail) -> bool:
    """Whether a soft bounce speaks of the mailbox, and not of us or the message.

    A day on a blocklist bounces everybody's mail: that tells nothing of any of them.
    """
    if judge_refusal(soft.code, soft.enhanced, soft.text).cause in (RefusalCause.SETUP, RefusalCause.SENDER):
        return False
    if _OURS_ENHANCED.fullmatch(soft.enhanced):
        return False
    return not _OURS_WORDS.search(f"{soft.type} {soft.subtype}")


def latest_decision(decisions: Iterable[AddressDecision]) -> AddressDecision | None:
    """The decision that stands: the last one, whether it was about a brand or about all."""
    return max(decisions, key=lambda decided: decided.nth, default=None)


def suppression_for(
    brand: str,
    decided: AddressDecision | None,
    evidence: Iterable[Evidence],
    rule: SuppressionRule,
    *,
    soft_since: Millis,
) -> Suppression | None:
    """Why ``brand`` doesn't write to the address that all this is about; None where it does.

    Soft bounces count from ``soft_since`` on: the rule's, or when what arrived there last was sent.
    """
    if decided is not None and decided.reason is not None:
        note = decided.note
        return Suppression(reason=decided.reason, since=decided.at, brand=decided.brand, by=decided.by, note=note)
    lifted = decided.at if decided is not None else -1
    counted = sorted((one for one in evidence if one.at > lifted), key=_order)
    sign = next((one for one in counted if one.reason is not SuppressionReason.SOFT_BOUNCE), None)
    if sign is None:
        sign = _enough([one for one in counted if one.at > soft_since], rule)
    if sign is None:
        return None
    return Suppression(reason=sign.reason, since=sign.at, brand=brand, email_id=sign.email_id, event_id=sign.event_id)


def _enough(soft: list[Evidence], rule: SuppressionRule) -> Evidence | None:
    """The bounce that was one too many."""
    return soft[rule.soft_bounces - 1] if 0 < rule.soft_bounces <= len(soft) else None


def _order(one: Evidence) -> tuple[Millis, EmailId, str]:
    return one.at, one.email_id, one.reason.value
