"""`suppressions`: what an operator decided of an address; the latest record of each key stands.

What bounces, complaints and unsubscribes tell isn't here: it follows from the emails themselves.
An address is on the log as its keyed hash only.
"""

from enum import StrEnum

from topics.record import Millis, Record

ALL_BRANDS = "*"
"""In a decision's brand: whatever brands the tenant has."""


class SuppressionReason(StrEnum):
    """Why an address gets nothing."""

    HARD_BOUNCE = "hard bounce"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"
    SOFT_BOUNCE = "soft bounce"
    MANUAL = "manual"
    """Somebody wanted it, for whatever reason."""


class _DecisionRecord(Record, frozen=True, kw_only=True):
    tenant: str
    brand: str
    """Or :data:`ALL_BRANDS`."""
    address_hash: str
    """Hexadecimal."""
    by: str
    """Who: ``api …`` and the beginning of the key's hash, ``cli`` and the user's name."""
    at: Millis

    @property
    def key(self) -> str:
        """Its key on the topic; a tenant's name has no slash, a hash neither."""
        return f"{self.tenant}/{self.brand}/{self.address_hash}"


class AddressListed(_DecisionRecord, tag="listed/1", frozen=True, kw_only=True):
    """Don't write to it, whatever is heard of it."""

    reason: SuppressionReason
    note: str = ""


class AddressLifted(_DecisionRecord, tag="lifted/1", frozen=True, kw_only=True):
    """Write to it again: whatever was heard or decided before counts no more."""


SuppressionDecision = AddressListed | AddressLifted
