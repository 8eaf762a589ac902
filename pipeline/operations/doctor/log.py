"""Check whether the log still has everything that was read from it into Postgres."""

from collections.abc import AsyncIterator

from pipeline.errors import DatabaseUnavailable, InvalidSettings, LogUnavailable, SchemaMismatch
from pipeline.operations.doctor.finding import DoctorFinding, fail, ok, skip
from pipeline.operations.recover.losses import find_losses
from pipeline.runtime.postgres.database import open_database
from pipeline.settings import Settings


async def check_log(settings: Settings) -> AsyncIterator[DoctorFinding]:
    """Yield where the log lacks what was read from it; the checks of Kafka and Postgres say why they can't be asked."""
    try:
        async with open_database(settings, size=1) as pool:
            losses = await find_losses(settings, pool) if settings.kafka_bootstrap else None
    except (DatabaseUnavailable, SchemaMismatch, InvalidSettings, LogUnavailable):
        losses = None
    if losses is None:
        yield skip("not compared without Kafka, Postgres and its schema")
    elif losses:
        more = f" (and {len(losses) - 1} partitions more)" if len(losses) > 1 else ""
        yield fail(f"{losses[0]}{more}", "`mailfold recover` says what was lost and what to do")
    else:
        yield ok("the log has everything that was read from it into Postgres")
