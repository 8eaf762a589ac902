"""Suppressions in Postgres: projects the topic `suppressions`, finds suppressed addresses, lists them.

Dispatch asks it before each send; the suppression commands and the APIs read from it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from projections.row_changes import storable_bigint
from projections.sql import SqlQueries
from projections.suppression_rules import (
    AddressDecision,
    AddressKey,
    Evidence,
    OldAddressHash,
    Suppression,
    SuppressionRule,
    latest_decision,
    suppression_for,
)
from projections.text import storable_text
from topics.record import EmailId, Millis
from topics.registry import SUPPRESSIONS
from topics.suppressions import AddressListed, SuppressionDecision, SuppressionReason

SQL: Final = SqlQueries(Path(__file__).with_name("suppressions.sql"))
PARTITION: Final = 0
"""The topic's only partition."""
LOOKUP_MAX_ADDRESSES: Final = 500
"""Addresses that one round of a page query assesses."""
PAGE_MAX_ROUNDS: Final = 20
"""Rounds for one page: where few of the addresses are still suppressed, a page ends early and the next continues."""

Connection = psycopg.AsyncConnection[Any]
OldHashes = Mapping[AddressKey, OldAddressHash]
_NO_OLD_HASHES: Final[OldHashes] = {}


class AddressAssessment(msgspec.Struct, frozen=True):
    """The decisions and evidence about one brand's address, and the suppression that follows from them."""

    key: AddressKey
    decisions: Sequence[AddressDecision]
    evidence: Sequence[Evidence]
    suppression: Suppression | None


class SuppressionPosition(msgspec.Struct, frozen=True):
    """The position after an entry in the listing's order."""

    address_hash: bytes = b""
    brand: str = ""


class SuppressionListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a tenant's suppressions; with a brand, all that apply to it, decisions for all brands included."""

    tenant: str
    brand: str | None = None
    reason: SuppressionReason | None = None
    limit: int = 100
    start_after: SuppressionPosition = SuppressionPosition()


class SuppressionPage(msgspec.Struct, frozen=True):
    """The entries of one page and the position of the next one."""

    entries: Sequence[tuple[AddressKey, Suppression]]
    next_position: SuppressionPosition | None
    """None on the last page."""


async def find_suppressed(
    connection: Connection,
    keys: Sequence[AddressKey],
    rule: SuppressionRule,
    now: Millis,
    old: OldHashes = _NO_OLD_HASHES,
) -> dict[AddressKey, Suppression]:
    """Return the suppressions of those keys that are suppressed; ``old``: older hashes to look up as well."""
    return {
        assessment.key: assessment.suppression
        for assessment in await assess_addresses(connection, keys, rule, now, old)
        if assessment.suppression is not None
    }


async def assess_addresses(
    connection: Connection,
    keys: Sequence[AddressKey],
    rule: SuppressionRule,
    now: Millis,
    old: OldHashes = _NO_OLD_HASHES,
) -> list[AddressAssessment]:
    """Return the assessment of each key; ``old``: older hashes to look up as well."""
    if not keys:
        return []
    values = _hash_columns(keys, old) | {"soft_since": rule.since(now)}
    rows = await (await connection.execute(SQL["reasons"], values)).fetchall()
    decisions, evidence = _decisions_and_evidence(rows)
    since = rule.since(now)
    assessments = [
        _assess(key, decisions[number], evidence.get(number, []), rule, since)
        for number, key in enumerate(keys, start=1)
    ]
    return await _reassess_soft(connection, assessments, rule, since, old)


def _assess(
    key: AddressKey,
    decisions: Sequence[AddressDecision],
    evidence: Sequence[Evidence],
    rule: SuppressionRule,
    soft_since: Millis,
) -> AddressAssessment:
    suppression = suppression_for(key[1], latest_decision(decisions), evidence, rule, soft_since=soft_since)
    return AddressAssessment(key, decisions, evidence, suppression)


async def _reassess_soft(
    connection: Connection, assessments: list[AddressAssessment], rule: SuppressionRule, since: Millis, old: OldHashes
) -> list[AddressAssessment]:
    """Assess addresses again that soft bounces suppress, with the bounces after the last delivered email only.

    That email is looked up for these addresses alone.
    """
    soft = [
        index
        for index, assessment in enumerate(assessments)
        if assessment.suppression is not None and assessment.suppression.is_soft
    ]
    if soft:
        values = _hash_columns([assessments[index].key for index in soft], old) | {"soft_since": since}
        for number, delivered_at in await (await connection.execute(SQL["last_deliveries"], values)).fetchall():
            before = assessments[soft[number - 1]]
            soft_since = max(since, delivered_at)
            assessments[soft[number - 1]] = _assess(before.key, before.decisions, before.evidence, rule, soft_since)
    return assessments


async def find_page(
    connection: Connection, query: SuppressionListQuery, rule: SuppressionRule, now: Millis
) -> SuppressionPage:
    """Return one page of a tenant's suppressions."""
    entries: list[tuple[AddressKey, Suppression]] = []
    position = query.start_after
    for _ in range(PAGE_MAX_ROUNDS):
        keys = await _keys_after(connection, query, position)
        for assessment in await assess_addresses(connection, keys, rule, now):
            position = SuppressionPosition(assessment.key[2], assessment.key[1])
            suppression = assessment.suppression
            if suppression is not None and _is_selected(suppression, assessment.key[1], query):
                entries.append((assessment.key, suppression))
            if len(entries) == query.limit:
                return SuppressionPage(entries, position)
        if len(keys) < LOOKUP_MAX_ADDRESSES:
            return SuppressionPage(entries, None)
    return SuppressionPage(entries, position)


def _is_selected(suppression: Suppression, brand: str, query: SuppressionListQuery) -> bool:
    """Return whether the query's page has this suppression.

    A decision for all brands is listed once, under all brands; a query for one brand lists it under that brand.
    """
    return query.reason in (None, suppression.reason) and (query.brand is not None or suppression.brand == brand)


async def assess_address(
    connection: Connection,
    tenant: str,
    address_hash: bytes,
    rule: SuppressionRule,
    now: Millis,
    *,
    old: OldAddressHash | None = None,
) -> list[AddressAssessment]:
    """Return the assessment of one address for each brand; ``old``: an older hash to look up as well."""
    values = {"tenant": tenant, "hashes": [address_hash, *([old.digest] if old else [])]}
    rows = await (await connection.execute(SQL["keys_of"], values)).fetchall()
    keys = [(tenant, brand, address_hash) for (brand,) in rows]
    return await assess_addresses(connection, keys, rule, now, dict.fromkeys(keys, old) if old else _NO_OLD_HASHES)


async def find_listed(
    connection: Connection, keys: Sequence[AddressKey]
) -> dict[AddressKey, tuple[SuppressionReason, str]]:
    """Return the reason and note of each key that a decision for exactly its brand lists."""
    rows = await (await connection.execute(SQL["listed"], _key_columns(keys))).fetchall()
    return {keys[number - 1]: (SuppressionReason(reason), note) for number, reason, note in rows}


async def find_addresses(connection: Connection, tenant: str, hashes: Sequence[bytes]) -> dict[bytes, str]:
    """Return the addresses of those hashes that the history still has."""
    values = {"tenant": tenant, "hashes": list(hashes)}
    return dict(await (await connection.execute(SQL["addresses"], values)).fetchall())


async def next_offset(connection: Connection, beginning: int) -> int:
    """Return the offset to read next; the log's ``beginning`` if nothing was ever projected."""
    await connection.execute(SQL["first_offset"], (SUPPRESSIONS.name, PARTITION, beginning))
    return await read_next_offset(connection)


async def read_next_offset(connection: Connection) -> int:
    """Return the first offset that isn't projected yet."""
    row = await (await connection.execute(SQL["next_offset"], (SUPPRESSIONS.name, PARTITION))).fetchone()
    return 0 if row is None else int(row[0])


async def project(
    connection: Connection, expected: int, upto: int, decisions: Sequence[tuple[int, SuppressionDecision]]
) -> bool:
    """Write the records from ``expected`` to before ``upto``; write nothing and return False if another writer did."""
    async with connection.transaction():
        values = {"topic": SUPPRESSIONS.name, "partition": PARTITION, "expected": expected, "next": upto}
        if (await connection.execute(SQL["advance"], values)).rowcount != 1:
            return False
        # A statement may write each row only once; the last decision of a key replaces the earlier ones.
        latest = {decision.key: (offset, decision) for offset, decision in decisions}
        if latest:
            await connection.execute(SQL["decide"], _decision_columns(list(latest.values())))
        return True


def _decision_columns(decisions: Sequence[tuple[int, SuppressionDecision]]) -> dict[str, Any]:
    return {
        "tenants": [decision.tenant for _, decision in decisions],
        "brands": [storable_text(decision.brand) for _, decision in decisions],
        "hashes": [bytes.fromhex(decision.address_hash) for _, decision in decisions],
        "reasons": [
            decision.reason.value if isinstance(decision, AddressListed) else None for _, decision in decisions
        ],
        "notes": [
            storable_text(decision.note) if isinstance(decision, AddressListed) else "" for _, decision in decisions
        ],
        "by": [storable_text(decision.by) for _, decision in decisions],
        "at": [storable_bigint(decision.at) for _, decision in decisions],
        "nth": [offset for offset, _ in decisions],
    }


async def _keys_after(
    connection: Connection, query: SuppressionListQuery, position: SuppressionPosition
) -> list[AddressKey]:
    values = {
        "tenant": query.tenant,
        "brand": query.brand,
        "address_hash": position.address_hash,
        "after_brand": position.brand,
        "limit": LOOKUP_MAX_ADDRESSES,
    }
    rows = await (await connection.execute(SQL["keys" if query.brand is None else "keys_for"], values)).fetchall()
    return [(query.tenant, brand, address_hash) for address_hash, brand in rows]


def _hash_columns(keys: Sequence[AddressKey], old: OldHashes) -> dict[str, Any]:
    """Return one row for each hash of each key; rows of one key have the same number, counted from 1."""
    rows = [(*key, number, False) for number, key in enumerate(keys, start=1)]
    for number, key in enumerate(keys, start=1):
        if (old_hash := old.get(key)) is not None:
            rows.append((key[0], key[1], old_hash.digest, number, old_hash.shared))
    columns = zip(*rows, strict=True)
    return dict(zip(("tenants", "brands", "hashes", "numbers", "shared"), map(list, columns), strict=True))


def _key_columns(keys: Sequence[AddressKey]) -> dict[str, Any]:
    tenants, brands, hashes = zip(*keys, strict=True) if keys else ((), (), ())
    return {"tenants": list(tenants), "brands": list(brands), "hashes": list(hashes)}


def _decisions_and_evidence(
    rows: Sequence[Sequence[Any]],
) -> tuple[Mapping[int, list[AddressDecision]], Mapping[int, list[Evidence]]]:
    decisions: dict[int, list[AddressDecision]] = defaultdict(list)
    evidence: dict[int, list[Evidence]] = defaultdict(list)
    for number, brand, nth, at, by, reason, note, email_id, event_id in rows:
        if email_id is None:
            listed_for = None if reason is None else SuppressionReason(reason)
            decisions[number].append(AddressDecision(nth=nth, brand=brand, at=at, by=by, reason=listed_for, note=note))
        else:
            evidence[number].append(Evidence(at, SuppressionReason(reason), EmailId(email_id), event_id))
    return decisions, {number: _without_repeats(rows) for number, rows in evidence.items()}


def _without_repeats(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Return each email's evidence once per reason: it may be stored under the old hash and under today's."""
    by_time = sorted(evidence, key=lambda each: each.at)
    return list({(each.email_id, each.reason): each for each in by_time}.values())
