"""Store templates in Postgres, as the projector does."""

import msgspec

from pipeline.content.templates import make_draft
from pipeline.runtime.bootstrap import Runtime
from projections import templates
from topics.templates import Template, TemplateSyntax, TemplateTexts


async def put(
    rt: Runtime, name: str, *, tenant: str = "acme", syntax: TemplateSyntax = TemplateSyntax.TWIG, **texts: str
) -> Template:
    """Store version 1 of a template with these texts (``subject``, ``html``, ``text``), and return it."""
    draft = make_draft(tenant, name, {"default": TemplateTexts(**texts)}, syntax=syntax)
    template = msgspec.structs.replace(draft, version=1, recorded_at=1)
    async with rt.pool.connection() as connection:
        at = await templates.next_offset(connection, 0)
        assert await templates.project(connection, at, at + 1, [(at, template)])
    return template
