"""API keys: their form, their limits, and how they are stored and found. Only hashes of keys are stored.

The `keys` commands call it, and the gateway to authenticate requests.
"""

import hashlib
import ipaddress
import re
import secrets
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple

from pipeline.admin.scopes import BRAND_SCOPES, KeyScope
from pipeline.admin.sql import execute, fetch_rows
from pipeline.admin.tenants import Tenant
from pipeline.errors import NotFound, Refused
from pipeline.runtime.postgres.database import Pool

KEY_PREFIX: Final = "mfk_"
KEY_PATTERN: Final = r"\bmfk_[0-9A-Za-z]{49}\b"
"""A regular expression by which secret scanners find keys; the last six characters are a checksum."""
LABEL_MAX_CHARS: Final = 200
NAME_CHARS: Final = 12
"""Characters of a key's name: the first six bytes of the stored hash, in hexadecimal."""
_RANDOM_CHARS: Final = 43
"""Characters of 62 each that hold 256 random bits."""
_CHECKSUM_CHARS: Final = 6
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LIMITED_KEY_CONTEXT: Final = b"mailfold key with limits\0"

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class KeyLimits:
    """The limits of a key; by default it may do everything of its tenant, from everywhere, for ever."""

    scopes: frozenset[KeyScope] | None = None
    """None: unscoped, which allows everything."""
    brand: str = ""
    """The only brand that it may be used for; empty for all."""
    networks: tuple[IpNetwork, ...] = ()
    """From where it may be used; empty for everywhere."""
    expires_at: datetime | None = None


@dataclass(frozen=True)
class ApiKey:
    """A key that is not revoked; it may have expired."""

    name: str
    """Its name in `mailfold keys list`, which does not reveal it."""
    tenant: Tenant
    limits: KeyLimits = KeyLimits()
    last_used_on: date | None = None
    key_hash: bytes = b""
    """The digest by which it is found, and which tokens contain."""
    stored_hash: bytes = b""

    def missing_scopes(self, needed: Collection[KeyScope]) -> list[KeyScope]:
        """Return the scopes that the key lacks, of those that are needed."""
        scopes = self.limits.scopes
        return [] if scopes is None else [scope for scope in needed if scope not in scopes]

    def has_scope(self, scope: KeyScope) -> bool:
        """Return whether the key has a scope."""
        return not self.missing_scopes((scope,))

    def may_use_brand(self, brand: str) -> bool:
        """Return whether the key may be used for a brand of its tenant."""
        return self.limits.brand in ("", brand)

    def is_expired(self, now_s: float) -> bool:
        """Return whether the key has expired at this time, in seconds since 1970."""
        expires_at = self.limits.expires_at
        return expires_at is not None and expires_at.timestamp() <= now_s

    def may_come_from(self, address: str) -> bool:
        """Return whether the key may be used from this IP address."""
        if not self.limits.networks:
            return True
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        return any((mapped or parsed) in network for network in self.limits.networks)


class ListedKey(NamedTuple):
    """A key as `mailfold keys list` shows it, revoked or not."""

    name: str
    tenant: str
    label: str
    scopes: list[str] | None
    brand: str
    networks: list[str]
    created_at: datetime
    made_by: str
    expires_at: datetime | None
    rotated_at: datetime | None
    last_used_on: date | None
    revoked_at: datetime | None


class NewKey:
    """A key that is to be added: its text, which nobody else knows yet, and the name that it will have."""

    def __init__(self, limits: KeyLimits) -> None:
        self.text = make_key()
        self.name = _stored_hash(self.text, limits).hex()[:NAME_CHARS]

    def __repr__(self) -> str:
        """Return the name alone."""
        return f"NewKey({self.name})"


def make_key() -> str:
    """Return a new random key."""
    text = KEY_PREFIX + "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM_CHARS))
    return text + _checksum(text)


def is_possible_key(text: str) -> bool:
    """Return whether a text can be a key; False for one with our prefix that has a typing error or is cut off.

    Keys of earlier versions have another prefix and no checksum, so every other text is possible.
    """
    if not text.startswith(KEY_PREFIX):
        return True
    body, checksum = text[:-_CHECKSUM_CHARS], text[-_CHECKSUM_CHARS:]
    return re.fullmatch(KEY_PATTERN, text) is not None and checksum == _checksum(body)


def key_hash(key: str) -> bytes:
    """Return the digest by which an API key is found, and which tokens contain instead of the key.

    SHA-256 is enough, because a key with 256 random bits cannot be guessed. A lookup by digest takes a time that says
    nothing about the key.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def limited_hash(hashed: bytes) -> bytes:
    """Return the digest under which a key with limits is stored, made from :func:`key_hash`.

    Versions that know no limits look only for :func:`key_hash`. They would allow everything; so they find no such key.
    """
    return hashlib.sha256(_LIMITED_KEY_CONTEXT + hashed).digest()


def key_names(key: str) -> tuple[str, str]:
    """Return the two names that this key can have in `mailfold keys list`, without and with limits."""
    hashed = key_hash(key)
    return hashed.hex()[:NAME_CHARS], limited_hash(hashed).hex()[:NAME_CHARS]


def check_limits(limits: KeyLimits) -> None:
    """Raise Refused for limits that contradict each other."""
    if not limits.brand:
        return
    if limits.scopes is None:
        raise Refused("a key for one brand needs scopes; an unscoped key may do everything", "scope")
    if others := sorted(limits.scopes - BRAND_SCOPES):
        raise Refused(f"{', '.join(others)}: concerns all brands of a tenant; make another key for it", "brand")


async def add_key(
    pool: Pool,
    tenant: str,
    label: str = "",
    limits: KeyLimits = KeyLimits(),
    *,
    made_by: str = "",
    new: NewKey | None = None,
) -> str:
    """Add an API key and return it; it cannot be shown again, because only its hash is stored. Raise Refused."""
    check_limits(limits)
    if len(label) > LABEL_MAX_CHARS:
        raise Refused(f"over {LABEL_MAX_CHARS} characters", "label")
    key = (new or NewKey(limits)).text
    networks = [str(network) for network in limits.networks]
    stored = (_stored_hash(key, limits), tenant, label, _stored_scopes(limits))
    await execute(pool, "add_key", *stored, limits.brand, networks, limits.expires_at, made_by)
    return key


async def rotate_key(
    pool: Pool, name: str, overlap: timedelta, *, scopes: frozenset[KeyScope] | None = None, made_by: str = ""
) -> str:
    """Add a key with the limits of an old one, end the old one after ``overlap``, and return the new key.

    ``scopes`` replace the old key's. The new key lasts as long as the old one was to last. Raise NotFound, Refused.
    """
    rows = await fetch_rows(pool, "key_named", name)
    if not rows:
        raise unknown_key(name)
    old = _api_key(rows[0])
    limits = old.limits if scopes is None else replace(old.limits, scopes=scopes)
    check_limits(limits)
    key = make_key()
    is_rotated = await execute(
        pool,
        "rotate_key",
        old_hash=old.stored_hash,
        new_hash=_stored_hash(key, limits),
        scopes=_stored_scopes(limits),
        overlap=overlap,
        made_by=made_by,
    )
    if not is_rotated:
        raise unknown_key(name)
    return key


async def revoke_key(pool: Pool, name: str) -> None:
    """Revoke an API key by the name that `mailfold keys list` shows. Raise NotFound."""
    if not await execute(pool, "revoke_key", name):
        raise unknown_key(name)


async def list_keys(pool: Pool) -> list[ListedKey]:
    """Return all keys, by tenant and age."""
    return [ListedKey(*row) for row in await fetch_rows(pool, "list_keys")]


async def find_key(pool: Pool, key: str) -> ApiKey | None:
    """Return what is stored of an API key; None if it is unknown or revoked."""
    hashed = key_hash(key)
    return (await find_keys(pool, [hashed])).get(hashed)


async def find_keys(pool: Pool, hashes: Collection[bytes]) -> dict[bytes, ApiKey]:
    """Return those of the keys that are neither unknown nor revoked, by :func:`key_hash`."""
    hash_by_stored = {stored: hashed for hashed in hashes for stored in (hashed, limited_hash(hashed))}
    rows = await fetch_rows(pool, "find_keys", list(hash_by_stored))
    return {hash_by_stored[row[0]]: _api_key(row, hash_by_stored[row[0]]) for row in rows}


async def note_key_use(pool: Pool, stored_hash: bytes, day: date) -> None:
    """Store the day of a key's last use, unless a later one is stored."""
    await execute(pool, "note_key_use", day, stored_hash, day)


def _api_key(row: tuple[Any, ...], hashed: bytes = b"") -> ApiKey:
    stored_hash, name, tenant, batch_max, rate_per_second, scopes, brand, networks, expires_at, last_used_on = row[:10]
    # A newer version may have scopes that this one does not know, and has no routes for.
    known = None if scopes is None else frozenset(KeyScope(scope) for scope in scopes if scope in set(KeyScope))
    limits = KeyLimits(known, brand, tuple(networks), expires_at)
    owner = Tenant(tenant, batch_max, rate_per_second, *row[10:])
    return ApiKey(name, owner, limits, last_used_on, hashed, stored_hash)


def _stored_hash(key: str, limits: KeyLimits) -> bytes:
    hashed = key_hash(key)
    return hashed if limits == KeyLimits() else limited_hash(hashed)


def _stored_scopes(limits: KeyLimits) -> list[str] | None:
    return None if limits.scopes is None else sorted(limits.scopes)


def unknown_key(name: str) -> NotFound:
    """Return the error that no key has this name."""
    # A key that was given instead of its name must not be repeated in an error.
    shown = name if len(name) <= NAME_CHARS else "of that name"
    return NotFound(f"no API key {shown} in force; `mailfold keys list` shows their names")


def _checksum(text: str) -> str:
    number = zlib.crc32(text.encode())
    digits = ""
    for _ in range(_CHECKSUM_CHARS):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
