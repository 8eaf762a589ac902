"""Publication of templates; the HTTP route and `mailfold templates push` call it.

A draft's version number is reserved in Postgres, then its record is appended. Only the record makes the version exist.
"""

import asyncio
from typing import Final

import msgspec

from pipeline.admin.actions import OperatorChange
from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import Log, LogEntry
from projections import templates
from topics.registry import TEMPLATES
from topics.templates import LOCALIZATIONS_NAME, Template

PROJECTION_TIMEOUT_S: Final = 3.0
"""Seconds to wait for the projector, so that the caller's next message can use the pushed version."""


async def push_template(rt: Runtime, log: Log, draft: Template) -> tuple[Template, bool]:
    """Append a draft as a version; return that version and whether it can be used already. Raise LogUnavailable."""
    async with rt.pool.connection() as connection:
        version = await templates.reserve_version(connection, draft.template_id, draft.hash)
    template = msgspec.structs.replace(draft, version=version, recorded_at=rt.clock())
    if await _is_projected(rt, template):
        return template, True
    await append_all(log, [LogEntry(TEMPLATES, template.key, template)])
    deadline = asyncio.get_running_loop().time() + PROJECTION_TIMEOUT_S
    while not (is_usable := await _is_projected(rt, template)) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
    return template, is_usable


async def template_change(rt: Runtime, draft: Template, reason: str = "") -> OperatorChange:
    """Return what the record of actions says about the push of a draft."""
    async with rt.pool.connection() as connection:
        if draft.name == LOCALIZATIONS_NAME:
            newest = await templates.get_localizations(connection, draft.tenant)
        else:
            newest = await templates.get_template(connection, draft.tenant, draft.name)
    before = None if newest is None else {"version": newest.version, "hash": newest.hash}
    after = {"hash": draft.hash}
    return OperatorChange("templates.push", draft.name, draft.tenant, reason=reason, before=before, after=after)


async def _is_projected(rt: Runtime, template: Template) -> bool:
    async with rt.pool.connection() as connection:
        return await templates.is_projected(connection, template)
