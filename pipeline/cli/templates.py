"""`mailfold templates`: push, list, show and render templates, and push and show the localizations that they name."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from pipeline.admin.templates import push_template
from pipeline.cli.context import console, run_with_pool, run_with_runtime, table
from pipeline.content import localizations, template_source
from pipeline.content import templates as content
from pipeline.content.localizations import Localizer
from pipeline.errors import NotFound, Refused
from pipeline.operations.pending import format_time
from pipeline.runtime.bootstrap import Runtime, wall_clock
from pipeline.runtime.database import Pool
from projections import templates
from topics.templates import LOCALIZATIONS_NAME, Template

app = typer.Typer(help="Texts with variables: versions, languages, what they would say.", no_args_is_help=True)

localizations_app = typer.Typer(help="Texts that templates name as {{key,…}}, per language.", no_args_is_help=True)
app.add_typer(localizations_app, name="localizations")

TenantOption = Annotated[str, typer.Option(help="The tenant.")]
NameArgument = Annotated[str, typer.Argument(help="Its id, name or hash.", metavar="NAME")]
VersionOption = Annotated[int | None, typer.Option(help="The newest, if none is given.", min=1)]


@app.command("push")
def push_folder(
    folder: Annotated[Path, typer.Argument(help="One template's folder, or a folder of such.", metavar="DIR")],
    tenant: TenantOption = "default",
) -> None:
    """Make a version of each; what the newest says already is left alone."""
    _push(*[_draft(tenant, each) for each in _folders(folder)])


@app.command("list")
def list_templates(tenant: TenantOption = "default") -> None:
    """Show each template's newest version."""

    async def look(pool: Pool, _: Any) -> list[templates.TemplateSummary]:
        async with pool.connection() as connection:
            return await templates.list_templates(connection, tenant)

    shown = table("name", "version", "hash", "id", "pushed", "versions")
    for each in run_with_pool(look):
        at = format_time(each.recorded_at)
        shown.add_row(each.name, str(each.version), each.hash, each.id, at, str(each.versions))
    console().print(
        shown if shown.row_count else "no templates; `mailfold templates push DIR` makes some", markup=False
    )


@app.command("show")
def show(name: NameArgument, tenant: TenantOption = "default", version: VersionOption = None) -> None:
    """Show one in full, as JSON."""
    found = template_source.template_view(_found(tenant, name, version))
    console().print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode(), markup=False)


@app.command("render")
def render(
    name: Annotated[str, typer.Argument(help="Its id, name or hash; or a template's folder.", metavar="NAME|DIR")],
    *,
    variables: Annotated[str, typer.Option(help="JSON, or the name of a file with it.")] = "{}",
    language: Annotated[str, typer.Option(help="Such as en-GB; falls back to en, then to the default.")] = "",
    tenant: TenantOption = "default",
    version: VersionOption = None,
    with_localizations: Annotated[
        Path | None, typer.Option("--localizations", help="A folder of localizations, instead of the tenant's.")
    ] = None,
) -> None:
    """Show what it would say; a folder needs no servers."""
    template = _draft(tenant, Path(name)) if Path(name).is_dir() else _found(tenant, name, version)
    localize = _localized(template, tenant, language, with_localizations)
    said = content.render_template(template, language, _variables(variables), now=wall_clock(), localize=localize)
    for part in ("subject", "text", "html"):
        if value := getattr(said, part):
            console().print(
                f"--- {part} ({said.ref.language}, version {said.ref.version or 'not pushed'})", markup=False
            )
            console().print(value, markup=False)


@localizations_app.command("push")
def push_localizations(
    folder: Annotated[Path, typer.Argument(help="A folder with EN.json, NL.json, …: texts by key.", metavar="DIR")],
    tenant: TenantOption = "default",
    default: Annotated[str, typer.Option(help="The language that has every key.")] = localizations.DEFAULT_LANGUAGE,
) -> None:
    """Replace all of the tenant's; what is there already is left alone."""
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder")
    try:
        draft = localizations.draft_from_files(tenant, _files(folder), default)
    except Refused as refused:
        raise Refused(f"{folder}: {refused.where}: {refused}") from None
    _push(draft)


@localizations_app.command("show")
def show_localizations(tenant: TenantOption = "default") -> None:
    """Show all of the tenant's, as JSON."""
    found = _localizations(tenant)
    if found is None:
        raise NotFound(f"tenant {tenant} has no localizations; `mailfold templates localizations push DIR` makes them")
    told = msgspec.json.encode(localizations.localization_set_view(found))
    console().print(msgspec.json.format(told, indent=2).decode(), markup=False)


def _push(*drafted: Template) -> None:
    async def work(rt: Runtime) -> None:
        for draft in drafted:
            made, usable = await push_template(rt, rt.log, draft)
            name = "localizations" if made.name == LOCALIZATIONS_NAME else made.name
            later = "" if usable else "; it can be used as soon as a projector has seen it"
            console().print(f"{name} version {made.version} hash {made.hash}{later}", markup=False)

    run_with_runtime(work)


def _localizations(tenant: str) -> Template | None:
    async def look(pool: Pool, _: Any) -> Template | None:
        async with pool.connection() as connection:
            return await templates.get_localizations(connection, tenant)

    return run_with_pool(look)


def _localized(template: Template, tenant: str, language: str, folder: Path | None) -> Localizer:
    """Return the texts that a template names: a folder's, else the tenant's, if it names any."""
    if folder is not None:
        return Localizer(localizations.draft_from_files(tenant, _files(folder)), language)
    return Localizer(_localizations(tenant) if content.is_localized(template) else None, language)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder")
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return inner or [folder]


def _draft(tenant: str, folder: Path) -> Template:
    """Raises Refused, naming the folder and the place in it."""
    try:
        return template_source.draft_from_files(tenant, folder.resolve().name, _files(folder))
    except Refused as refused:
        raise Refused(f"{folder}: {refused.where}: {refused}") from None


def _files(folder: Path) -> dict[str, str]:
    """Return a folder's files by name. Raises Refused for one that is not UTF-8."""
    try:
        return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()}
    except UnicodeDecodeError as error:
        raise Refused(f"not UTF-8: {error.reason}", str(folder)) from None


def _found(tenant: str, name: str, version: int | None) -> Template:
    async def look(pool: Pool, _: Any) -> Template | None:
        async with pool.connection() as connection:
            return await templates.get_template(connection, tenant, name, version)

    found = run_with_pool(look)
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
