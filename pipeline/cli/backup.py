"""`mailfold backup` and `mailfold restore`: save what Postgres alone knows, and restore it into a new database."""

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.context import command_settings, console, run_with_database
from pipeline.errors import InvalidSettings
from pipeline.operations.backup import restore as restore_operation
from pipeline.operations.backup import save as save_operation
from pipeline.operations.backup.contents import BackupHeader
from pipeline.settings import Settings

app = typer.Typer()
BackupFile = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="The backup.")]


@app.command()
def backup(
    file: BackupFile,
    verify: Annotated[
        bool, typer.Option("--verify", help="Write nothing: read the file to its end and say what is in it.")
    ] = False,
) -> None:
    """Save what Postgres owns in one encrypted file: tenants, keys, providers, brands, identities, paused lanes.

    It is one snapshot, made while everything runs. The log and the secrets are not in it: save both apart. What is
    made from the log (history, finished jobs) is not in it either. The file has mode 0600 and gets its name when it is
    complete. The passphrase comes from MAILFOLD_BACKUP_PASSPHRASE or a file.
    """
    if verify:
        verified = restore_operation.verify_backup(file, read_passphrase(command_settings()))
        _print_contents(verified.header, verified.rows)
        typer.echo(f"complete and unchanged; SHA-256 {verified.checksum}")
        return

    async def work(settings: Settings) -> save_operation.SavedBackup:
        return await save_operation.save_backup(settings, file, read_passphrase(settings))

    saved = run_with_database(work)
    _print_contents(saved.header, saved.rows)
    if saved.header.log is None:
        typer.echo("Kafka did not answer, so that the backup does not say where the log ended", err=True)
    typer.echo(f"saved in {file}: {saved.file_bytes} bytes, SHA-256 {saved.checksum}")


@app.command()
def restore(
    file: BackupFile,
    other_secret: Annotated[
        bool,
        typer.Option(
            "--other-secret",
            help="Even if it was made under another secret, which is lost. Give every credential again then.",
        ),
    ] = False,
) -> None:
    """Restore a backup into a new database, or change nothing. The roles then make the rest from the log.

    The database must be migrated (`mailfold migrate`) and unused. A backup of an older version is accepted as long as
    this version's tables have the columns of that version's.
    """

    async def work(settings: Settings) -> restore_operation.RestoredBackup:
        passphrase = read_passphrase(settings)
        return await restore_operation.restore_backup(settings, file, passphrase, other_secret=other_secret)

    restored = run_with_database(work)
    _print_contents(restored.header, restored.rows)
    if restored.log_note:
        console().print(f"[yellow]{restored.log_note}[/]")
    typer.echo(
        "restored. Next: `mailfold doctor`; then start `project`, `worker`, `dispatch`, `emit` and the gateways, wait "
        "until `mailfold status` shows nobody behind, and let `mailfold recover` say whether the log lacks anything"
    )


def read_passphrase(settings: Settings) -> str:
    """Return the passphrase of backups. Raise InvalidSettings where there is none."""
    if passphrase := settings.backup_passphrase.get_secret_value():
        return passphrase
    raise InvalidSettings("MAILFOLD_BACKUP_PASSPHRASE: missing; set it, or MAILFOLD_BACKUP_PASSPHRASE_FILE")


def _print_contents(header: BackupHeader, rows: dict[str, int]) -> None:
    made_at = dt.datetime.fromtimestamp(header.made_at / 1000, dt.UTC)
    typer.echo(f"backup of {made_at:%Y-%m-%d %H:%M:%S} UTC by Mailfold {header.version}, at {header.migrations[-1]}")
    for name, count in rows.items():
        typer.echo(f"  {name}: {count}")
