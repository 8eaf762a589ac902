"""`mailfold export`: write emails or their timelines to a file; the same bytes as an export of the HTTP API."""

import hashlib
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, BinaryIO

import msgspec
import typer

from pipeline.cli.context import STDIN, open_output, run_with_pool
from pipeline.dialects import api_v1, api_v1_query
from pipeline.errors import Refused
from pipeline.exports.chunks import export_chunks
from pipeline.exports.request import ExportFormat, ExportKind, ExportRequest
from pipeline.runtime.postgres.database import Pool
from pipeline.runtime.secrets.signing import canonical_address
from pipeline.settings import Settings
from projections.history_queries import Connection, latest_projected_time

app = typer.Typer()


@app.command()
def export(
    *,
    output: Annotated[str, typer.Option(help="A new file that only you can read; - is standard output.")] = STDIN,
    kind: Annotated[ExportKind, typer.Option(help="A line for each email, or for each fact.")] = ExportKind.EMAILS,
    form: Annotated[ExportFormat, typer.Option("--format", help="Compressed by gzip.")] = ExportFormat.CSV,
    filters: Annotated[
        list[str] | None, typer.Option("--filter", metavar="NAME=VALUE", help="As in GET /api/v1/emails; repeatable.")
    ] = None,
    as_of: Annotated[str, typer.Option(help="The moment to show: RFC 3339 or milliseconds. [now]")] = "",
    addresses: Annotated[bool, typer.Option("--addresses", help="Write addresses in clear.")] = False,
    tenant: Annotated[str, typer.Option(help="Whose emails.")] = "default",
) -> None:
    """Write emails, or all that happened to them, to a file as they were at one moment.

    The same filter as of the same moment gives the same file, byte for byte. The checksum is printed at the end.
    """
    parameters = [_parameter(text) for text in filters or ()]
    request = ExportRequest(
        tenant=tenant,
        as_of=api_v1_query.parse_time("--as-of", as_of) if as_of else sys.maxsize,
        kind=kind,
        format=form,
        filter=api_v1_query.parse_filter(tenant, parameters, canonical_address),
        masks_addresses=not addresses,
    )

    async def write(pool: Pool, _settings: Settings) -> None:
        with open_output(output) as file:
            await write_export(pool, request, file)

    run_with_pool(write)


async def write_export(pool: Pool, request: ExportRequest, file: BinaryIO) -> None:
    """Write a file, and say on standard error what it has."""
    digest, emails, rows = hashlib.sha256(), 0, 0
    async with pool.connection() as connection:
        moment = min(request.as_of, await latest_projected_time(connection))

    async def read(query: Callable[[Connection], Awaitable[Any]]) -> Any:
        async with pool.connection() as connection:
            return await query(connection)

    async for chunk in export_chunks(read, msgspec.structs.replace(request, as_of=moment)):
        file.write(chunk.data)
        digest.update(chunk.data)
        emails, rows = emails + chunk.emails, rows + chunk.rows
    summary = f"{emails} emails, {rows} rows, as of {api_v1.rfc3339(moment)}, SHA-256 {digest.hexdigest()}"
    typer.echo(summary, err=True)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Refused("--filter: NAME=VALUE, such as activity_id=31337")
    return name, value
