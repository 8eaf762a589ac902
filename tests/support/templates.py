"""Templates where the gateway finds them, as the projector would have put them there."""

import msgspec

from pipeline.content.templates import make_draft
from pipeline.runtime.bootstrap import Runtime
from projections import templates
from topics.templates import Template, TemplateSyntax, TemplateTexts


async def put(
    rt: Runtime, name: str, *, tenant: str = "acme", syntax: TemplateSyntax = TemplateSyntax.TWIG, **texts: str
) -> Template:
    """Version 1 of a template with these texts: ``subject``, ``html``, ``text``."""
    draft = make_draft(tenant, name, {"default": TemplateTexts(**texts)}, syntax=syntax)
    made = msgspec.structs.replace(draft, version=1, recorded_at=1)
    async with rt.pool.connection() as connection:
        at = await templates.next_offset(connection, 0)
        assert await templates.project(connection, at, at + 1, [(at, made)])
    return made
