"""`mailfold templates`: push, list, show and render templates, and push and show the localizations that they name."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from pipeline.admin.actions import ActionRecorder
from pipeline.admin.templates import push_template, template_change
from pipeline.cli.context import ReasonOption, console, run_change, run_with_pool, table
from pipeline.content import localizations, template_source
from pipeline.content import templates as content
from pipeline.content.localizations import Localizer
from pipeline.errors import NotFound, Refused
from pipeline.operations.pending import format_time
from pipeline.runtime.bootstrap import Runtime, wall_clock
from pipeline.runtime.postgres.database import Pool
from projections import templates
from topics.templates import LOCALIZATIONS_NAME, Template

app = typer.Typer(help="Templates of emails, in versions and languages.", no_args_is_help=True)

localizations_app = typer.Typer(help="Texts by language that templates name as {{key,…}}.", no_args_is_help=True)
app.add_typer(localizations_app, name="localizations")

TenantOption = Annotated[str, typer.Option(help="The tenant.")]
NameArgument = Annotated[str, typer.Argument(help="Its id, name or hash.", metavar="NAME")]
VersionOption = Annotated[int | None, typer.Option(help="The version. [the newest]", min=1)]


@app.command("push")
def push_folder(
    folder: Annotated[Path, typer.Argument(help="A template's folder, or a folder of such folders.", metavar="DIR")],
    tenant: TenantOption = "default",
    reason: ReasonOption = "",
) -> None:
    """Create a new version of each template that differs from its newest version."""
    _push(reason, *[_draft_from_folder(tenant, path) for path in _template_folders(folder)])


@app.command("list")
def list_templates(tenant: TenantOption = "default") -> None:
    """Show each template's newest version."""

    async def read(pool: Pool, _: Any) -> list[templates.TemplateSummary]:
        async with pool.connection() as connection:
            return await templates.list_templates(connection, tenant)

    listing = table("name", "version", "hash", "id", "pushed", "versions")
    for row in run_with_pool(read):
        at = format_time(row.recorded_at)
        listing.add_row(row.name, str(row.version), row.hash, row.id, at, str(row.versions))
    console().print(
        listing if listing.row_count else "no templates; `mailfold templates push DIR` creates them", markup=False
    )


@app.command("show")
def show(name: NameArgument, tenant: TenantOption = "default", version: VersionOption = None) -> None:
    """Show a template in full, as JSON."""
    view = template_source.template_view(_get_template(tenant, name, version))
    console().print(msgspec.json.format(msgspec.json.encode(view), indent=2).decode(), markup=False)


@app.command("render")
def render(
    name: Annotated[str, typer.Argument(help="Its id, name or hash; or a template's folder.", metavar="NAME|DIR")],
    *,
    variables: Annotated[str, typer.Option(help="A JSON object, or the name of a file that holds it.")] = "{}",
    language: Annotated[
        str, typer.Option(help="A language such as en-GB; falls back to en, then to the default.")
    ] = "",
    tenant: TenantOption = "default",
    version: VersionOption = None,
    with_localizations: Annotated[
        Path | None, typer.Option("--localizations", help="A folder of localizations, instead of the tenant's.")
    ] = None,
) -> None:
    """Render a template and show the result; a template in a folder needs no servers."""
    template = _draft_from_folder(tenant, Path(name)) if Path(name).is_dir() else _get_template(tenant, name, version)
    localizer = _create_localizer(template, tenant, language, with_localizations)
    values = _parse_variables(variables)
    rendered = content.render_template(template, language, values, now=wall_clock(), localize=localizer)
    for part in ("subject", "text", "html"):
        if text := getattr(rendered, part):
            version_name = rendered.ref.version or "not pushed"
            console().print(f"--- {part} ({rendered.ref.language}, version {version_name})", markup=False)
            console().print(text, markup=False)


@localizations_app.command("push")
def push_localizations(
    folder: Annotated[Path, typer.Argument(help="A folder with EN.json, NL.json, …: texts by key.", metavar="DIR")],
    tenant: TenantOption = "default",
    default: Annotated[str, typer.Option(help="The language that has every key.")] = localizations.DEFAULT_LANGUAGE,
    reason: ReasonOption = "",
) -> None:
    """Replace all of the tenant's localizations, unless they are the same already."""
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder")
    try:
        draft = localizations.draft_from_files(tenant, _read_files(folder), default)
    except Refused as refused:
        raise Refused(f"{folder}: {refused.where}: {refused}") from None
    _push(reason, draft)


@localizations_app.command("show")
def show_localizations(tenant: TenantOption = "default") -> None:
    """Show all of the tenant's localizations, as JSON."""
    localization_set = _get_localizations(tenant)
    if localization_set is None:
        raise NotFound(
            f"tenant {tenant} has no localizations; `mailfold templates localizations push DIR` creates them"
        )
    view = msgspec.json.encode(localizations.localization_set_view(localization_set))
    console().print(msgspec.json.format(view, indent=2).decode(), markup=False)


def _push(reason: str, *drafts: Template) -> None:
    async def push(rt: Runtime, actions: ActionRecorder) -> None:
        for draft in drafts:
            async with actions.recorded(await template_change(rt, draft, reason)):
                pushed, is_usable = await push_template(rt, rt.log, draft)
            name = "localizations" if pushed.name == LOCALIZATIONS_NAME else pushed.name
            later = "" if is_usable else "; it can be used as soon as a projector has read it"
            console().print(f"{name} version {pushed.version} hash {pushed.hash}{later}", markup=False)

    run_change(push)


def _get_localizations(tenant: str) -> Template | None:
    async def read(pool: Pool, _: Any) -> Template | None:
        async with pool.connection() as connection:
            return await templates.get_localizations(connection, tenant)

    return run_with_pool(read)


def _create_localizer(template: Template, tenant: str, language: str, folder: Path | None) -> Localizer:
    """Return a localizer with a folder's localizations, else with the tenant's where the template names any."""
    if folder is not None:
        return Localizer(localizations.draft_from_files(tenant, _read_files(folder)), language)
    return Localizer(_get_localizations(tenant) if content.is_localized(template) else None, language)


def _template_folders(folder: Path) -> list[Path]:
    """Return the folders in ``folder``, or itself where it has none. Raise Refused where it is no folder."""
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder")
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return inner or [folder]


def _draft_from_folder(tenant: str, folder: Path) -> Template:
    """Return the template in a folder. Raise Refused, which names the folder and the place in it."""
    try:
        return template_source.draft_from_files(tenant, folder.resolve().name, _read_files(folder))
    except Refused as refused:
        raise Refused(f"{folder}: {refused.where}: {refused}") from None


def _read_files(folder: Path) -> dict[str, str]:
    """Return the texts of a folder's files by file name. Raise Refused for a file that is not UTF-8."""
    try:
        return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()}
    except UnicodeDecodeError as error:
        raise Refused(f"not UTF-8: {error.reason}", str(folder)) from None


def _get_template(tenant: str, name: str, version: int | None) -> Template:
    """Return a stored template. Raise NotFound."""

    async def read(pool: Pool, _: Any) -> Template | None:
        async with pool.connection() as connection:
            return await templates.get_template(connection, tenant, name, version)

    template = run_with_pool(read)
    if template is None:
        raise NotFound(f"tenant {tenant} has no template {name}; `mailfold templates list` shows all")
    return template


def _parse_variables(option: str) -> dict[str, Any]:
    """Return the variables that an option holds as JSON, or that are in the file that it names. Raise Refused."""
    text = option if option.lstrip().startswith("{") else Path(option).read_text(encoding="utf-8")
    try:
        variables = json.loads(text)
    except ValueError as error:
        raise Refused(f"--variables: not JSON: {error}") from None
    if not isinstance(variables, dict):
        raise Refused("--variables: must be a JSON object")
    return variables
