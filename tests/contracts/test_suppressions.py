"""Suppressions on a real Postgres, compared with a model that scans everything: decisions, pages and repeats."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from projections import suppressions
from projections.suppression_rules import AddressKey, OldAddressHash, SuppressionRule
from projections.suppressions import Connection, SuppressionListQuery, SuppressionPosition
from topics.suppressions import AddressLifted, AddressListed, SuppressionDecision, SuppressionReason

RULE, NOW, DAY = SuppressionRule(soft_bounces=3, days=10), 100 * 86_400_000, 86_400_000
BRANDS = ("7", "8")
HASHES = [bytes([number]) * 32 for number in range(25)]
Row = tuple[str, bytes, str, int]
"""Brand, hash, reason, at."""


def made_up(seed: int) -> tuple[list[SuppressionDecision], list[Row]]:
    """Decisions in the log's order, and evidence."""
    chance = random.Random(seed)
    decisions: list[SuppressionDecision] = []
    for _ in range(60):
        own = {
            "tenant": "acme",
            "brand": chance.choice((*BRANDS, "*")),
            "by": "x",
            "at": NOW - chance.randrange(20) * DAY,
        }
        name = chance.choice(HASHES).hex()
        if chance.random() < 0.6:
            decisions.append(AddressLifted(address_hash=name, **own))  # type: ignore[arg-type]
        else:
            decisions.append(AddressListed(address_hash=name, reason=SuppressionReason.MANUAL, **own))  # type: ignore[arg-type]
    evidence = []
    for nth in range(120):
        reason = "soft bounce" if chance.random() < 0.8 else chance.choice(("hard bounce", "complaint", "unsubscribe"))
        evidence.append((chance.choice(BRANDS), chance.choice(HASHES), reason, NOW - chance.randrange(20) * DAY - nth))
    return decisions, evidence


def naively(decisions: Sequence[SuppressionDecision], evidence: Sequence[Row], brand: str, name: bytes) -> str | None:
    """Why this brand doesn't write to this address, by looking at everything."""
    about = [one for one in decisions if one.address_hash == name.hex() and one.brand in (brand, "*")]
    if about and isinstance(about[-1], AddressListed):
        return f"listed for {about[-1].brand}"
    after = about[-1].at if about else -1
    evidence_times = sorted(row[2:] for row in evidence if row[:2] == (brand, name) and row[3] > after)
    hard = sorted((at, reason) for reason, at in evidence_times if reason != "soft bounce")
    if hard:
        return min({reason for at, reason in hard if at == hard[0][0]})
    recent = [at for reason, at in evidence_times if at > NOW - RULE.days * DAY]
    return "soft bounce" if len(recent) >= RULE.soft_bounces else None


async def fill(
    connection: Connection, decisions: Sequence[SuppressionDecision], evidence: Sequence[Row], chance: random.Random
) -> None:
    query = "insert into projections.evidence values ('acme', %s, %s, gen_random_uuid(), %s, 'e', %s)"
    for row in evidence:
        await connection.execute(query, row)
    at = await suppressions.next_offset(connection, 0)
    while at < len(decisions):
        upto = min(len(decisions), at + chance.randint(1, 20))
        batch = list(enumerate(decisions))[at:upto]
        assert await suppressions.project(connection, at, upto, batch)
        assert not await suppressions.project(connection, at, upto, batch), "a second projector writes nothing"
        at = upto


async def test_decisions_and_pages_equal_those_of_full_scan_model(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(6):
        await connection.execute("truncate projections.evidence, suppressions.decisions, suppressions.next_offsets")
        with monkeypatch.context() as patched:
            await _as_the_model_says(connection, seed, patched)


async def _as_the_model_says(connection: Connection, seed: int, patched: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    decisions, evidence = made_up(seed)
    await fill(connection, decisions, evidence, chance)
    keys: list[AddressKey] = [("acme", brand, name) for name in HASHES for brand in (*BRANDS, "9", "*")]
    suppressed = await suppressions.find_suppressed(connection, keys, RULE, NOW)
    reasons = {key: f"listed for {why.brand}" if why.is_listed else why.reason.value for key, why in suppressed.items()}
    model = {key: why for key in keys if (why := naively(decisions, evidence, key[1], key[2]))}
    assert {key: why.removeprefix("listed for ") for key, why in reasons.items()} == {
        key: why.removeprefix("listed for ") for key, why in model.items()
    }
    patched.setattr(suppressions, "LOOKUP_MAX_ADDRESSES", chance.randint(1, 7))
    patched.setattr(suppressions, "PAGE_MAX_ROUNDS", 2)
    for brand in (None, *BRANDS, "9"):
        query = SuppressionListQuery(tenant="acme", brand=brand, limit=chance.randint(1, 9))
        paged = await _pages(connection, query)
        if brand is None:
            listed_keys = {
                key for key, why in model.items() if not why.startswith("listed") or why == f"listed for {key[1]}"
            }
        else:
            listed_keys = {key for key in model if key[1] == brand}
        assert len(paged) == len(set(paged))
        assert set(paged) == listed_keys
        assert [key[2] for key in paged] == sorted(key[2] for key in paged)


async def _pages(connection: Connection, query: SuppressionListQuery) -> list[AddressKey]:
    keys: list[AddressKey] = []
    behind: SuppressionPosition | None = query.start_after
    while behind is not None:
        page = await suppressions.find_page(connection, _going_on(query, behind), RULE, NOW)
        assert len(page.entries) <= query.limit
        keys += [key for key, _ in page.entries]
        behind = page.next_position
    return keys


def _going_on(query: SuppressionListQuery, behind: SuppressionPosition) -> SuppressionListQuery:
    return SuppressionListQuery(tenant=query.tenant, brand=query.brand, limit=query.limit, start_after=behind)


async def test_rereading_topic_changes_nothing(connection: Connection) -> None:
    decisions, evidence = made_up(9)
    await fill(connection, decisions, evidence, random.Random(9))
    rows = "select * from suppressions.decisions order by address_hash, brand"
    before = await (await connection.execute(rows)).fetchall()
    await connection.execute("update suppressions.next_offsets set next_offset = 0")
    assert await suppressions.project(connection, 0, 10, list(enumerate(decisions))[:10])
    assert await (await connection.execute(rows)).fetchall() == before


OLD, TODAY = b"o" * 32, b"t" * 32
KEY: AddressKey = ("acme", "7", TODAY)


async def add_evidence(
    connection: Connection, name: bytes, reason: str, at: int, *, email_id: str | None = None
) -> None:
    query = "insert into projections.evidence values ('acme', '7', %s, coalesce(%s, gen_random_uuid()), %s, 'e', %s)"
    await connection.execute(query, (name, email_id, reason, at))


async def decided(connection: Connection, *decisions: SuppressionDecision) -> None:
    at = await suppressions.next_offset(connection, 0)
    assert await suppressions.project(connection, at, at + len(decisions), list(enumerate(decisions, at)))


def listed(name: bytes, at: int = NOW, brand: str = "7") -> AddressListed:
    return AddressListed(
        address_hash=name.hex(), tenant="acme", brand=brand, by="x", at=at, reason=SuppressionReason.MANUAL
    )


async def test_entry_under_old_hash_still_suppresses(connection: Connection) -> None:
    await add_evidence(connection, OLD, "hard bounce", 5)
    old = {KEY: OldAddressHash(OLD, shared=False)}
    assert await suppressions.find_suppressed(connection, [KEY], RULE, NOW) == {}
    assert (await suppressions.find_suppressed(connection, [KEY], RULE, NOW, old))[
        KEY
    ].reason is SuppressionReason.HARD_BOUNCE
    [known] = await suppressions.assess_address(connection, "acme", TODAY, RULE, NOW, old=old[KEY])
    assert (known.key, [one.at for one in known.evidence]) == (KEY, [5])


async def test_later_decision_under_either_hash_wins(connection: Connection) -> None:
    old = {KEY: OldAddressHash(OLD, shared=False)}
    await decided(connection, listed(OLD))
    assert KEY in await suppressions.find_suppressed(connection, [KEY], RULE, NOW, old)
    await decided(connection, AddressLifted(address_hash=TODAY.hex(), tenant="acme", brand="7", by="x", at=NOW))
    assert await suppressions.find_suppressed(connection, [KEY], RULE, NOW, old) == {}
    await decided(connection, listed(OLD))
    assert KEY in await suppressions.find_suppressed(connection, [KEY], RULE, NOW, old)


async def test_shared_old_hash_counts_only_for_older_decisions(connection: Connection) -> None:
    await connection.execute("update suppressions.key_change set changed_at = 100")
    old = {KEY: OldAddressHash(OLD, shared=True)}
    await add_evidence(connection, OLD, "complaint", 101)
    await decided(connection, listed(OLD, 102, "*"))
    assert await suppressions.find_suppressed(connection, [KEY], RULE, NOW, old) == {}
    await add_evidence(connection, OLD, "unsubscribe", 99)
    assert (await suppressions.find_suppressed(connection, [KEY], RULE, NOW, old))[
        KEY
    ].reason is SuppressionReason.UNSUBSCRIBE


async def test_soft_bounce_of_one_email_under_both_hashes_counts_once(connection: Connection) -> None:
    old = {KEY: OldAddressHash(OLD, shared=False)}
    for number in range(RULE.soft_bounces - 1):
        email_id = f"00000000-0000-7000-8000-{number:012d}"
        await add_evidence(connection, OLD, "soft bounce", NOW - DAY + number, email_id=email_id)
        await add_evidence(connection, TODAY, "soft bounce", NOW - DAY + number, email_id=email_id)
    assert await suppressions.find_suppressed(connection, [KEY], RULE, NOW, old) == {}
    await add_evidence(connection, OLD, "soft bounce", NOW - 1)
    assert KEY in await suppressions.find_suppressed(connection, [KEY], RULE, NOW, old)


RESTORED_PLACE = -7


@pytest.mark.parametrize(
    ("place", "at", "next_place", "next_at", "is_lifted"),
    [
        (RESTORED_PLACE, 20, 3, 10, True),  # the log was restored to an older moment than the backup
        (RESTORED_PLACE, 20, 3, 20, False),  # the log has the decision itself, or one as late
        (900, 20, 5, 10, True),  # an old log is read again
        (900, 20, 813, 30, False),  # and goes on at a smaller place
        (5, 20, 6, 10, False),  # the later record counts, whatever its author's clock said
    ],
)
async def test_decision_of_a_lost_log_counts_until_the_log_has_a_later_one(  # noqa: PLR0917
    connection: Connection, place: int, at: int, next_place: int, next_at: int, is_lifted: bool
) -> None:
    common: dict[str, Any] = {"tenant": "acme", "brand": "7", "address_hash": HASHES[0].hex(), "by": "x"}
    first = AddressLifted(at=at, **common)
    later = AddressListed(at=next_at, reason=SuppressionReason.MANUAL, **common)
    await suppressions.next_offset(connection, 0)
    assert await suppressions.project(connection, 0, 1, [(place, first)])
    assert await suppressions.project(connection, 1, 2, [(next_place, later)])
    query = "select reason is null from suppressions.decisions"
    assert await (await connection.execute(query)).fetchall() == [(is_lifted,)]
