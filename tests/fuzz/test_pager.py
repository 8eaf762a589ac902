"""Clients that page through changing emails, under clocks that disagree, compared with an oracle.

`make fuzz` pages through 100,000 emails.
"""

import asyncio
import functools
import os
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from pipeline.runtime.secrets.signing import AddressHasher, Signer, hash_address
from pipeline.settings import Settings
from projections import history_cursor
from projections.history import HistoryFilter, HistoryQuery
from projections.sink import ChangeBatch, Sink
from tests.conftest import RING
from tests.support.changes import T0, Log, acked, event, request
from tests.support.gateway import Gateway, gateway
from tests.support.tables import tables
from topics.changes import EmailChange, Tick
from topics.events import EventKind
from topics.ids import brand_uuid
from topics.readings import listed_state, sent_at
from topics.states import EmailState

EMAILS = int(os.environ.get("PAGER_EMAILS", "3000"))
PARTITIONS = 3
PACE_S = EMAILS / 1_000_000
"""Seconds between two rounds of changes; the oracle keeps all of them in memory, so a long run makes them slower."""
SINK = Sink(functools.partial(hash_address, AddressHasher(RING)))
SIGNER = Signer(RING, "cursor")
BATCH_RECORDS = 1000
TABLES = ("history", "versions", "requests", "timeline", "superseded_facts", "evidence", "next_offsets")


class Partition:
    """A partition that grows while it is projected, with timestamps of clocks that are late, early, or step back."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.number = number
        self.records: list[EmailChange | Tick] = []
        self._chance = chance
        self._log = Log(number)
        self._emails = range(number, EMAILS, PARTITIONS)
        self._more = EMAILS + number

    def fill(self) -> None:
        for email in self._emails:
            self._fold(request(email, T0 + email), T0 + email + self._chance.randint(-5_000, 5_000))
            self._fold(acked(email, T0 + email + 1), T0 + email + self._chance.randint(-5_000, 5_000))

    def change(self, now: int) -> None:
        """Change a few emails of all ages and add a few, with timestamps of different clocks."""
        for email in self._chance.sample(self._emails, min(20, len(self._emails))):
            kind = self._chance.choice((EventKind.DELIVERED, EventKind.OPENED, EventKind.BOUNCED, EventKind.COMPLAINED))
            self._fold(event(email, kind, now), now + self._chance.randint(-4_000, 50))
        for _ in range(3):
            self._more += PARTITIONS
            self._fold(request(self._more, now), now - self._chance.randint(0, 4_000))
            self._fold(acked(self._more, now + 1), now - self._chance.randint(0, 4_000))
        if self._chance.random() < 0.7:
            self.records.append(Tick(recorded_at=now + self._chance.randint(-100, 100)))

    def _fold(self, fact: Any, recorded_at: int) -> None:
        self._log.fold(fact)
        self.records.append(msgspec.structs.replace(self._log.changes[-1], recorded_at=recorded_at))

    async def project(self, rt: Any, start: int) -> int:
        end = len(self.records)
        for first in range(start, end, BATCH_RECORDS):
            upto = min(first + BATCH_RECORDS, end)
            async with rt.pool.connection() as connection:
                await SINK.apply(connection, ChangeBatch(self.number, first, upto, self.records[first:upto]))
        return end


async def grow(world: Gateway, partition: Partition, start: int, done: asyncio.Event) -> None:
    while not done.is_set():
        partition.change(world.rt.clock())
        start = await partition.project(world.rt, start)
        await asyncio.sleep(PACE_S)


class Listing:
    """The emails that one client saw, page by page."""

    def __init__(self, **params: str) -> None:
        self.params = params
        self.seen: list[dict[str, Any]] = []
        self.query: HistoryQuery | None = None

    async def read(self, world: Gateway) -> None:
        more: dict[str, str] = {}
        while True:
            answer = await world.http.get("/v1/Email/", params=self.params | more, headers={"X-Api-Key": world.key})
            assert answer.status_code == 200, answer.text
            page = answer.json()
            self.seen += page["Emails"]
            if "Next" not in page:
                return
            more = {"Next": page["Next"]}
            given = history_cursor.ListingParameters(filter=HistoryFilter())
            self.query, _ = history_cursor.decode_cursor(SIGNER.verify, "acme", page["Next"], given)

    def moment(self) -> int:
        if "After" in self.params:
            return int(self.params["After"]) * 1000 + 999
        assert self.query is not None
        return self.query.as_of


def as_of(records: Sequence[EmailChange | Tick], moment: int) -> dict[str, tuple[int, EmailState]]:
    """Return each email of a partition at a moment, computed from the log: the oracle, which reads no table."""
    time = 0
    emails: dict[str, tuple[int, EmailState]] = {}
    for record in records:
        time = max(time, record.recorded_at)
        if time > moment:
            break
        if isinstance(record, EmailChange):
            before = emails.get(record.email_id)
            if before is None or before[1] != record.state:
                emails[record.email_id] = (time, record.state)
    return emails


def expected(partitions: Sequence[Partition], listing: Listing) -> list[tuple[str, str]]:
    moment = listing.moment()
    rows = []
    for partition in partitions:
        for email_id, (valid_from, state) in as_of(partition.records, moment).items():
            shown = listed_state(state)
            assert state.request is not None
            brand = listing.params.get("BrandId", "")
            if shown is None or (brand and brand_uuid("acme", state.request.brand) != brand):
                continue
            if listing.params.get("State", shown) == shown:
                rows.append((min(sent_at(state) or 0, valid_from), email_id, shown.value))
    return [(email_id, shown) for _, email_id, shown in sorted(rows, reverse=True)]


@pytest.mark.ci
async def test_every_page_of_a_listing_shows_one_moment_of_the_log(settings: Settings) -> None:
    chance = random.Random(EMAILS)
    partitions = [Partition(number, chance) for number in range(PARTITIONS)]
    listing_params = [
        {},
        {"State": "sent"},
        {"BrandId": brand_uuid("acme", "1")},
        {},
        {"After": str(T0 // 1000 + EMAILS // 2000)},
    ]
    listings = [Listing(**params) for params in listing_params]
    async with gateway(settings) as world:
        starts = []
        for partition in partitions:
            async with world.rt.pool.connection() as connection:
                await SINK.start(connection, partition.number, 0, 0, PARTITIONS)
            partition.fill()
            starts.append(await partition.project(world.rt, 0))
        done = asyncio.Event()
        growing = [asyncio.create_task(grow(world, *pair, done)) for pair in zip(partitions, starts, strict=True)]
        for listing in listings:
            await listing.read(world)
        done.set()
        await asyncio.gather(*growing)
        for listing in listings:
            seen = [(email["MessageId"], email["State"]) for email in listing.seen]
            assert len(set(seen)) == len(seen)
            assert seen == expected(partitions, listing), listing.params
        # The first began before the last of them was projected of every partition.
        assert len(listings[3].seen) >= EMAILS
        assert 0 < len(listings[-1].seen) < EMAILS
        await _assert_rebuild_is_equal(world, partitions)


async def _assert_rebuild_is_equal(world: Gateway, partitions: Sequence[Partition]) -> None:
    """Assert that projecting the log again, in other batches, gives the same tables."""
    async with world.rt.pool.connection() as connection:
        original = await tables(connection, *TABLES)
        for table in TABLES:
            await connection.execute(f"truncate projections.{table}".encode())
    for partition in partitions:
        async with world.rt.pool.connection() as connection:
            await SINK.start(connection, partition.number, 0, 0, PARTITIONS)
        await partition.project(world.rt, 0)
    async with world.rt.pool.connection() as connection:
        assert await tables(connection, *TABLES) == original


async def test_listing_is_empty_until_every_partition_has_started(settings: Settings) -> None:
    records: list[EmailChange | Tick] = [
        *Log().fold(request(1)).fold(acked(1, T0)).changes,
        Tick(recorded_at=T0 + 1_000_000),
    ]
    async with gateway(settings) as world:
        listing = Listing()
        async with world.rt.pool.connection() as connection:
            await SINK.start(connection, 0, 0, 0, 2)
            await SINK.apply(connection, ChangeBatch(0, 0, 3, records))
        await listing.read(world)
        assert listing.seen == []
        async with world.rt.pool.connection() as connection:
            await SINK.start(connection, 1, 0, 0, 2)
            await SINK.apply(connection, ChangeBatch(1, 0, 1, [Tick(recorded_at=T0 + 500_000)]))
        await listing.read(world)
        assert len(listing.seen) == 1
