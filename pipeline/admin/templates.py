"""A draft in, a version on the log out: reserve, append, and only then it is there, as with a request."""

import asyncio
from typing import Final

import msgspec

from pipeline.runtime.bootstrap import Runtime
from pipeline.runtime.kafka import append_all
from pipeline.runtime.ports import Log, LogEntry
from projections import templates
from topics.registry import TEMPLATES
from topics.templates import Template

PROJECTION_TIMEOUT_S: Final = 3.0
"""A push waits so long for the projector, so that who sends next is sent what was pushed."""


async def push_template(rt: Runtime, log: Log, draft: Template) -> tuple[Template, bool]:
    """The version that the draft became, and whether it can be used already. Raises LogUnavailable."""
    async with rt.pool.connection() as connection:
        version = await templates.reserve_version(connection, draft.template_id, draft.hash)
    made = msgspec.structs.replace(draft, version=version, recorded_at=rt.clock())
    if await _is_there(rt, made):
        return made, True
    await append_all(log, [LogEntry(TEMPLATES, made.key, made)])
    deadline = asyncio.get_running_loop().time() + PROJECTION_TIMEOUT_S
    while not (there := await _is_there(rt, made)) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.05)
    return made, there


async def _is_there(rt: Runtime, template: Template) -> bool:
    async with rt.pool.connection() as connection:
        return await templates.is_projected(connection, template)
