"""`suppressions`: operators' decisions about addresses; the latest record of each key counts.

Suppressions by bounces, complaints and unsubscribes aren't here: they follow from the emails themselves. An address is
on this topic as its keyed hash only.
"""

from enum import StrEnum

from topics.record import Millis, Record

ALL_BRANDS = "*"
"""The brand of a decision for all brands of a tenant."""


class SuppressionReason(StrEnum):
    """The reason why an address gets no mail."""

    HARD_BOUNCE = "hard bounce"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"
    SOFT_BOUNCE = "soft bounce"
    MANUAL = "manual"
    """An operator's decision without one of the other reasons."""


class _DecisionRecord(Record, frozen=True, kw_only=True):
    tenant: str
    brand: str
    """The brand, or :data:`ALL_BRANDS`."""
    address_hash: str
    """The keyed hash of the address, hexadecimal."""
    by: str
    """The author: ``api …`` and the start of the API key's hash, or ``cli`` and the user's name."""
    at: Millis

    @property
    def key(self) -> str:
        """Return the record's key on the topic; tenants' names and hashes have no slash."""
        return f"{self.tenant}/{self.brand}/{self.address_hash}"


class AddressListed(_DecisionRecord, tag="listed/1", frozen=True, kw_only=True):
    """The decision that an address gets no mail, whatever its emails' events are."""

    reason: SuppressionReason
    note: str = ""


class AddressLifted(_DecisionRecord, tag="lifted/1", frozen=True, kw_only=True):
    """The decision that an address gets mail again: earlier events and decisions no longer count."""


SuppressionDecision = AddressListed | AddressLifted
