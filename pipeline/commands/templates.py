"""`mailfold templates push|list|show|render`: folders of texts in, versions on the log; what they say, out."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from pipeline.bootstrap import runtime, wall_clock
from pipeline.commands.here import console, settings, table, with_pool
from pipeline.content import drafts
from pipeline.content import templates as content
from pipeline.database import Pool
from pipeline.errors import NotFound, Refused
from pipeline.templating import push
from pipeline.waiting import clock
from projections import templates
from topics.templates import Template

app = typer.Typer(help="Texts with variables: versions, languages, what they would say.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="The tenant.")]
Name = Annotated[str, typer.Argument(help="Its id, name or hash.", metavar="NAME")]
Version = Annotated[int | None, typer.Option(help="The newest, if none is given.", min=1)]


@app.command("push")
def push_folder(
    folder: Annotated[Path, typer.Argument(help="One template's folder, or a folder of such.", metavar="DIR")],
    tenant: Tenant = "default",
) -> None:
    """Make a version of each; what the newest says already is left alone."""
    drafted = [_draft(tenant, each) for each in _folders(folder)]

    async def main() -> None:
        async with runtime(settings(), pool_size=1) as rt:
            for draft in drafted:
                made, usable = await push(rt, rt.log, draft)
                later = "" if usable else "; it can be used as soon as a projector has seen it"
                console().print(f"{made.name} version {made.version} hash {made.hash}{later}", markup=False)

    asyncio.run(main())


@app.command("list")
def list_templates(tenant: Tenant = "default") -> None:
    """Show each template's newest version."""

    async def look(pool: Pool, _: Any) -> list[templates.Listed]:
        async with pool.connection() as connection:
            return await templates.list_templates(connection, tenant)

    shown = table("name", "version", "hash", "id", "pushed", "versions")
    for each in with_pool(look):
        at = clock(each.recorded_at)
        shown.add_row(each.name, str(each.version), each.hash, each.id, at, str(each.versions))
    console().print(
        shown if shown.row_count else "no templates; `mailfold templates push DIR` makes some", markup=False
    )


@app.command("show")
def show(name: Name, tenant: Tenant = "default", version: Version = None) -> None:
    """Show one in full, as JSON."""
    found = drafts.shown(_found(tenant, name, version))
    console().print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode(), markup=False)


@app.command("render")
def render(
    name: Annotated[str, typer.Argument(help="Its id, name or hash; or a template's folder.", metavar="NAME|DIR")],
    variables: Annotated[str, typer.Option(help="JSON, or the name of a file with it.")] = "{}",
    language: Annotated[str, typer.Option(help="Such as en-GB; falls back to en, then to the default.")] = "",
    tenant: Tenant = "default",
    version: Version = None,
) -> None:
    """Show what it would say; a folder needs no servers."""
    template = _draft(tenant, Path(name)) if Path(name).is_dir() else _found(tenant, name, version)
    said = content.render(template, language, _variables(variables), now=wall_clock())
    for part in ("subject", "text", "html"):
        if value := getattr(said, part):
            console().print(
                f"--- {part} ({said.ref.language}, version {said.ref.version or 'not pushed'})", markup=False
            )
            console().print(value, markup=False)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder")
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return inner or [folder]


def _draft(tenant: str, folder: Path) -> Template:
    """Raises Refused, naming the folder and the place in it."""
    try:
        files = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()}
        return drafts.from_files(tenant, folder.resolve().name, files)
    except UnicodeDecodeError as error:
        raise Refused(f"{folder}: not UTF-8: {error.reason}") from None
    except Refused as refused:
        raise Refused(f"{folder}: {refused.where}: {refused}") from None


def _found(tenant: str, name: str, version: int | None) -> Template:
    async def look(pool: Pool, _: Any) -> Template | None:
        async with pool.connection() as connection:
            return await templates.get_template(connection, tenant, name, version)

    found = with_pool(look)
    if found is None:
        raise NotFound(f"tenant {tenant} has no template {name}; `mailfold templates list` shows what there is")
    return found


def _variables(given: str) -> dict[str, Any]:
    text = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Refused(f"--variables: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused("--variables: must be a JSON object")
    return found
