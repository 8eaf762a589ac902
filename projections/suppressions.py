"""`suppressions`' records in, rows out; an address in, why nobody writes to it out."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from projections.sql import Queries
from projections.steps import bigint
from projections.suppressing import AddressKey, Decided, Evidence, OldHash, Rule, Why, latest, verdict
from projections.text import storable_text
from topics.record import EmailId, Millis
from topics.registry import SUPPRESSIONS
from topics.suppressions import Decision, Listed, Reason

SQL: Final = Queries(Path(__file__).with_name("suppressions.sql"))
PARTITION: Final = 0
"""The topic has one."""
AT_ONCE: Final = 500
"""Addresses looked at in one round."""
ROUNDS: Final = 20
"""For one page: where next to all is lifted or forgiven, a page ends early and the next goes on."""

Connection = psycopg.AsyncConnection[Any]
OldHashes = Mapping[AddressKey, OldHash]
_NONE: Final[OldHashes] = {}


class Known(msgspec.Struct, frozen=True):
    """All that bears on one brand's mail to one address."""

    key: AddressKey
    decisions: Sequence[Decided]
    evidence: Sequence[Evidence]
    why: Why | None


class Place(msgspec.Struct, frozen=True):
    """The last entry seen; the listing goes on behind it."""

    address_hash: bytes = b""
    brand: str = ""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Which of a tenant's suppressions are wanted. A brand wants what holds for it, all brands' included."""

    tenant: str
    brand: str | None = None
    reason: Reason | None = None
    limit: int = 100
    behind: Place = Place()


class Page(msgspec.Struct, frozen=True):
    """What is shown, and where it goes on; None at the end."""

    entries: Sequence[tuple[AddressKey, Why]]
    behind: Place | None


async def suppressed(
    connection: Connection, keys: Sequence[AddressKey], rule: Rule, now: Millis, old: OldHashes = _NONE
) -> dict[AddressKey, Why]:
    """Return those of these keys that get nothing, and why; ``old``: hashes that count as well."""
    return {known.key: known.why for known in await look(connection, keys, rule, now, old) if known.why is not None}


async def look(
    connection: Connection, keys: Sequence[AddressKey], rule: Rule, now: Millis, old: OldHashes = _NONE
) -> list[Known]:
    """Return all that is known of these keys; ``old``: hashes that count as well."""
    if not keys:
        return []
    values = _hash_columns(keys, old) | {"soft_since": rule.since(now)}
    decisions, evidence = _sorted_out(await (await connection.execute(SQL["told"], values)).fetchall())
    since = rule.since(now)
    found = [
        _known(key, decisions[number], evidence.get(number, []), rule, since)
        for number, key in enumerate(keys, start=1)
    ]
    return await _forgive(connection, found, rule, since, old)


def _known(
    key: AddressKey, decisions: Sequence[Decided], evidence: Sequence[Evidence], rule: Rule, soft_since: Millis
) -> Known:
    why = verdict(key[1], latest(decisions), evidence, rule, soft_since=soft_since)
    return Known(key, decisions, evidence, why)


async def _forgive(
    connection: Connection, found: list[Known], rule: Rule, since: Millis, old: OldHashes
) -> list[Known]:
    """Soft bounces count since the last email that arrived: asked only where they would be enough."""
    doubted = [nth for nth, known in enumerate(found) if known.why is not None and known.why.soft]
    if doubted:
        values = _hash_columns([found[nth].key for nth in doubted], old) | {"soft_since": since}
        for number, arrived in await (await connection.execute(SQL["arrived"], values)).fetchall():
            known = found[doubted[number - 1]]
            later = max(since, arrived)
            found[doubted[number - 1]] = _known(known.key, known.decisions, known.evidence, rule, later)
    return found


async def page(connection: Connection, asked: Asked, rule: Rule, now: Millis) -> Page:
    """One page of a tenant's suppressions."""
    entries: list[tuple[AddressKey, Why]] = []
    behind = asked.behind
    for _ in range(ROUNDS):
        keys = await _keys(connection, asked, behind)
        for known in await look(connection, keys, rule, now):
            behind = Place(known.key[2], known.key[1])
            why = known.why
            if why is not None and asked.reason in (None, why.reason) and _shown(why, known.key[1], asked):
                entries.append((known.key, why))
            if len(entries) == asked.limit:
                return Page(entries, behind)
        if len(keys) < AT_ONCE:
            return Page(entries, None)
    return Page(entries, behind)


def _shown(why: Why, brand: str, asked: Asked) -> bool:
    """What was decided for all brands is shown once, as that; to who asks for one brand it is shown as what holds."""
    return asked.brand is not None or why.brand == brand


async def of_address(
    connection: Connection, tenant: str, address_hash: bytes, rule: Rule, now: Millis, *, old: OldHash | None = None
) -> list[Known]:
    """Return everything that is known of one address, brand by brand."""
    values = {"tenant": tenant, "hashes": [address_hash, *([old.digest] if old else [])]}
    rows = await (await connection.execute(SQL["keys_of"], values)).fetchall()
    keys = [(tenant, brand, address_hash) for (brand,) in rows]
    return await look(connection, keys, rule, now, dict.fromkeys(keys, old) if old else _NONE)


async def listed(connection: Connection, keys: Sequence[AddressKey]) -> dict[AddressKey, tuple[Reason, str]]:
    """Those of these that are listed by a decision for this very brand: why, and the note."""
    rows = await (await connection.execute(SQL["listed"], _columns(keys))).fetchall()
    return {keys[number - 1]: (Reason(reason), note) for number, reason, note in rows}


async def addresses(connection: Connection, tenant: str, hashes: Sequence[bytes]) -> dict[bytes, str]:
    """The addresses behind these hashes, those that the history still knows."""
    values = {"tenant": tenant, "hashes": list(hashes)}
    return dict(await (await connection.execute(SQL["addresses"], values)).fetchall())


async def next_offset(connection: Connection, beginning: int) -> int:
    """Where to read on; the first time ever that is the log's beginning."""
    await connection.execute(SQL["first_offset"], (SUPPRESSIONS.name, PARTITION, beginning))
    return await projected_to(connection)


async def projected_to(connection: Connection) -> int:
    """The first offset that isn't projected yet."""
    row = await (await connection.execute(SQL["next_offset"], (SUPPRESSIONS.name, PARTITION))).fetchone()
    return 0 if row is None else int(row[0])


async def project(connection: Connection, expected: int, upto: int, decisions: Sequence[tuple[int, Decision]]) -> bool:
    """Write what lies from ``expected`` to before ``upto``, whole; False, and nothing, where somebody else did."""
    async with connection.transaction():
        values = {"topic": SUPPRESSIONS.name, "partition": PARTITION, "expected": expected, "next": upto}
        if (await connection.execute(SQL["advance"], values)).rowcount != 1:
            return False
        # A statement may touch a row once: the last of each key is what the others came to.
        last = {decision.key: (offset, decision) for offset, decision in decisions}
        if last:
            await connection.execute(SQL["decide"], _rows(list(last.values())))
        return True


def _rows(decisions: Sequence[tuple[int, Decision]]) -> dict[str, Any]:
    return {
        "tenants": [decision.tenant for _, decision in decisions],
        "brands": [storable_text(decision.brand) for _, decision in decisions],
        "hashes": [bytes.fromhex(decision.address_hash) for _, decision in decisions],
        "reasons": [decision.reason.value if isinstance(decision, Listed) else None for _, decision in decisions],
        "notes": [storable_text(decision.note) if isinstance(decision, Listed) else "" for _, decision in decisions],
        "by": [storable_text(decision.by) for _, decision in decisions],
        "at": [bigint(decision.at) for _, decision in decisions],
        "nth": [offset for offset, _ in decisions],
    }


async def _keys(connection: Connection, asked: Asked, behind: Place) -> list[AddressKey]:
    values = {
        "tenant": asked.tenant,
        "brand": asked.brand,
        "address_hash": behind.address_hash,
        "after_brand": behind.brand,
        "limit": AT_ONCE,
    }
    rows = await (await connection.execute(SQL["keys" if asked.brand is None else "keys_for"], values)).fetchall()
    return [(asked.tenant, brand, address_hash) for address_hash, brand in rows]


def _hash_columns(keys: Sequence[AddressKey], old: OldHashes) -> dict[str, Any]:
    """Return one row for each hash of each key; rows of one key have one number, counted from 1."""
    rows = [(*key, number, False) for number, key in enumerate(keys, start=1)]
    for number, key in enumerate(keys, start=1):
        if (other := old.get(key)) is not None:
            rows.append((key[0], key[1], other.digest, number, other.shared))
    columns = zip(*rows, strict=True)
    return dict(zip(("tenants", "brands", "hashes", "numbers", "shared"), map(list, columns), strict=True))


def _columns(keys: Sequence[AddressKey]) -> dict[str, Any]:
    tenants, brands, hashes = zip(*keys, strict=True) if keys else ((), (), ())
    return {"tenants": list(tenants), "brands": list(brands), "hashes": list(hashes)}


def _sorted_out(rows: Sequence[Sequence[Any]]) -> tuple[Mapping[int, list[Decided]], Mapping[int, list[Evidence]]]:
    decisions: dict[int, list[Decided]] = defaultdict(list)
    evidence: dict[int, list[Evidence]] = defaultdict(list)
    for number, brand, nth, at, by, reason, note, email_id, event_id in rows:
        if email_id is None:
            known = None if reason is None else Reason(reason)
            decisions[number].append(Decided(nth=nth, brand=brand, at=at, by=by, reason=known, note=note))
        else:
            evidence[number].append(Evidence(at, Reason(reason), EmailId(email_id), event_id))
    return decisions, {number: _each_once(found) for number, found in evidence.items()}


def _each_once(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Return what each email told of each kind once: it may stand under the old hash and under today's."""
    return list({(one.email_id, one.reason): one for one in sorted(evidence, key=lambda one: one.at)}.values())
