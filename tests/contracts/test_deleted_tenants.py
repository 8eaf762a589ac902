"""What the projections make of the records of a deleted tenant, on a real Postgres."""

import random
from typing import Any

import msgspec
import pytest

from pipeline import admin
from pipeline.errors import Refused
from pipeline.runtime.postgres.database import Pool
from projections import suppressions, templates
from projections.sink import Connection, Sink
from tests.contracts.test_sink import hashed, project
from tests.support.changes import T0, Log, event, fates, lives, request
from tests.support.tables import empty, tables
from topics.events import EventKind
from topics.suppressions import AddressListed, SuppressionReason
from topics.templates import Template, TemplateSyntax, TemplateTexts


async def delete(connection: Connection, tenant: str = "acme") -> None:
    await connection.execute("insert into admin.deleted_tenants (tenant) values (%s) on conflict do nothing", (tenant,))


async def rows(connection: Connection, query: Any) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query)).fetchall()


def mixed(seed: int) -> Log:
    """Return a log of a tenant that is deleted and of another, interleaved."""
    chance, log = random.Random(seed), Log()
    waiting = [fates(number, T0 + number * 100, chance, tenant) for number in range(12) for tenant in ("acme", "other")]
    while waiting:
        log.fold(chance.choice(waiting).pop(0))
        waiting = [facts for facts in waiting if facts]
    return log


@pytest.mark.parametrize("seed", range(3))
async def test_changes_of_deleted_tenant_leave_no_row_however_the_log_is_split(
    connection: Connection, seed: int
) -> None:
    log, chance = mixed(seed), random.Random(seed)
    await delete(connection)
    await project(connection, Sink(hashed), log.runs())
    at_once = await tables(connection)
    assert {row[0] for row in await rows(connection, "select tenant from projections.history")} == {"other"}
    assert await rows(connection, "select 1 from jobs.jobs where lane like 'acme/%'") == []
    for table in ("versions", "evidence", "mails"):
        assert await rows(connection, f"select 1 from projections.{table} where tenant = 'acme'") == []
    ids = [change.email_id for change in log.changes if change.state.request and change.state.request.tenant == "acme"]
    for table in ("projections.timeline", "intake.identities"):
        found = await connection.execute(f"select 1 from {table} where email_id = any(%s::uuid[])", (ids,))
        assert await found.fetchall() == []
    await empty(connection)
    await project(connection, Sink(hashed), log.runs(*sorted(chance.sample(range(1, len(log.changes)), 9))))
    assert await tables(connection) == at_once


async def test_facts_before_the_request_of_deleted_tenant_are_removed_with_it(connection: Connection) -> None:
    opened, requested = event(1, EventKind.OPENED, T0), request(1, T0 + 9)
    log = Log().fold(opened).fold(requested)
    sink = Sink(hashed)
    await project(connection, sink, log.runs(1)[:1])
    assert await rows(connection, "select tenant from projections.history") == [(None,)]
    await delete(connection)
    await sink.apply(connection, *log.runs(1)[1:])
    for table in ("history", "versions", "timeline"):
        assert await rows(connection, f"select 1 from projections.{table}") == []


async def test_time_of_a_partition_advances_with_changes_of_deleted_tenant(connection: Connection) -> None:
    log = lives(1, 5)
    await project(connection, Sink(hashed), log.runs())
    query = "select next_offset, through, changed from projections.next_offsets"
    grown = await rows(connection, query)
    await empty(connection)
    await delete(connection)
    await project(connection, Sink(hashed), log.runs())
    assert await rows(connection, query) == grown, "or a rebuild would differ from the tables that grew"


async def test_templates_and_decisions_of_deleted_tenant_are_not_projected(connection: Connection) -> None:
    await delete(connection)
    template = Template(
        template_id="7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02",
        tenant="acme",
        name="welcome",
        version=1,
        recorded_at=T0,
        hash="00",
        syntax=TemplateSyntax.TWIG,
        texts={"en": TemplateTexts(text="Hello")},
        default="en",
    )
    other = msgspec.structs.replace(template, tenant="other", template_id="7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c03")
    beginning = await templates.next_offset(connection, 0)
    assert await templates.project(connection, beginning, 2, [(0, template), (1, other)])
    assert await rows(connection, "select tenant from templates.versions") == [("other",)]
    assert len(await rows(connection, "select 1 from intake.template_versions")) == 1
    listed = AddressListed(tenant="acme", brand="*", address_hash="ab", reason=SuppressionReason.MANUAL, by="me", at=T0)
    beginning = await suppressions.next_offset(connection, 0)
    decisions = [(0, listed), (1, msgspec.structs.replace(listed, tenant="other"))]
    assert await suppressions.project(connection, beginning, 2, decisions)
    assert await rows(connection, "select tenant from suppressions.decisions") == [("other",)]


async def test_name_of_deleted_tenant_is_not_given_again(pool: Pool) -> None:
    async with pool.connection() as connection:
        await delete(connection)
    with pytest.raises(Refused, match="tenant acme was deleted"):
        await admin.add_tenant(pool, admin.Tenant("acme"))
    await admin.add_tenant(pool, admin.Tenant("acme-2"))
