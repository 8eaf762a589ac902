"""Templates in Postgres: projects the topic `templates`, finds templates by id, name or hash, reserves versions."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import psycopg

from projections.sql import SqlQueries
from topics.codec import decode, encode
from topics.record import Millis
from topics.registry import TEMPLATES
from topics.templates import Template

SQL: Final = SqlQueries(Path(__file__).with_name("templates.sql"))
PARTITION: Final = 0
"""The topic's only partition."""

Connection = psycopg.AsyncConnection[Any]


class TemplateSummary(msgspec.Struct, frozen=True):
    """A template's newest version and the number of its versions."""

    id: str
    name: str
    version: int
    hash: str
    recorded_at: Millis
    versions: int


async def get_template(connection: Connection, tenant: str, name: str, version: int | None = None) -> Template | None:
    """Return a tenant's template by id, name or hash, in this version or the newest; None if there is none."""
    # Postgres can't hold NUL, so no template has such a name.
    values = {"tenant": tenant, "name": name.replace("\0", "\ufffd"), "id": _uuid(name), "version": version}
    row = await (await connection.execute(SQL["find"], values)).fetchone()
    return None if row is None else decode(TEMPLATES, row[0])


async def get_localizations(connection: Connection, tenant: str) -> Template | None:
    """Return a tenant's newest set of localizations."""
    row = await (await connection.execute(SQL["localizations"], (tenant,))).fetchone()
    return None if row is None else decode(TEMPLATES, row[0])


async def list_templates(connection: Connection, tenant: str) -> list[TemplateSummary]:
    """Return a summary of each of a tenant's templates, ordered by name."""
    rows = await (await connection.execute(SQL["list"], (tenant,))).fetchall()
    return [TemplateSummary(*row) for row in rows]


async def is_projected(connection: Connection, template: Template) -> bool:
    """Return whether exactly this version and content is projected."""
    row = await (await connection.execute(SQL["exact"], (template.template_id, template.version))).fetchone()
    return row is not None and row[0] == template.hash


async def reserve_version(connection: Connection, template_id: str, content: str) -> int:
    """Return the newest version's number if it has this content hash; otherwise reserve and return the next number."""
    async with connection.transaction():
        await connection.execute(SQL["lock_template"], (template_id,))
        row = await (await connection.execute(SQL["latest"], (template_id,))).fetchone()
        if row is not None and row[1] == content:
            return int(row[0])
        version = 1 if row is None else row[0] + 1
        values = {"template_id": template_id, "version": version, "hash": content}
        await connection.execute(SQL["reserve_version"], values)
        return int(version)


async def next_offset(connection: Connection, beginning: int) -> int:
    """Return the offset to read next; the log's ``beginning`` if nothing was ever projected."""
    await connection.execute(SQL["first_offset"], (TEMPLATES.name, PARTITION, beginning))
    row = await (await connection.execute(SQL["next_offset"], (TEMPLATES.name, PARTITION))).fetchone()
    assert row is not None
    return int(row[0])


async def project(connection: Connection, expected: int, upto: int, templates: Sequence[tuple[int, Template]]) -> bool:
    """Write the records from ``expected`` to before ``upto``; write nothing and return False if another writer did."""
    async with connection.transaction():
        values = {"topic": TEMPLATES.name, "partition": PARTITION, "expected": expected, "next": upto}
        if (await connection.execute(SQL["advance"], values)).rowcount != 1:
            return False
        for _, template in templates:
            row = msgspec.structs.asdict(template) | {"template": encode(TEMPLATES, template)}
            await connection.execute(SQL["add"], row)
            await connection.execute(SQL["reserve_projected"], row)
        return True


def _uuid(name: str) -> str | None:
    try:
        return str(uuid.UUID(name))
    except ValueError:
        return None
