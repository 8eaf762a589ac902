"""Name what a backup contains: the tables that Postgres owns, and the records of which the file is made.

Everything else in Postgres is made from the log again: the projections, the correlation, finished jobs. Nothing that
holds a place on the log is restored as it is, because on another cluster the places are others.
"""

from typing import Final, LiteralString

import msgspec

from pipeline.runtime.secrets.secret_fingerprints import SecretFingerprint

PLACE_SHIFT: Final = 2**62
"""What is subtracted from a decision's place on the log when it is restored: it stays in order with the other restored
ones, and any that is read from the log comes after it."""


class OwnedTable(msgspec.Struct, frozen=True):
    """A table of a backup."""

    name: str
    rows: LiteralString = "true"
    """Which rows are saved, as an SQL condition."""
    replaces: bool = False
    """Whether a new database has rows in it, which the saved ones replace."""
    from_log: bool = False
    """Whether its rows are also on the log; they are saved because the log may be lost as well."""


OWNED_TABLES: Final = (
    OwnedTable("admin.deleted_tenants"),
    OwnedTable("admin.tenants"),
    OwnedTable("admin.api_keys"),
    OwnedTable("admin.providers"),
    OwnedTable("admin.brands"),
    OwnedTable("admin.routes"),
    OwnedTable("admin.destinations"),
    OwnedTable("admin.sender_domains"),
    OwnedTable("admin.analytics_readers"),
    OwnedTable("admin.feature_level", replaces=True),
    OwnedTable("admin.secret_fingerprints", replaces=True),
    OwnedTable("intake.identities"),
    OwnedTable("intake.template_versions"),
    OwnedTable("intake.webhook_tokens"),
    OwnedTable("intake.webhooks_heard"),
    OwnedTable("jobs.lanes", rows="paused_at is not null"),
    # What is not on the log: an attempt without an outcome, which the policy of its brand must decide about, and a
    # replay. The other jobs are made from the log, and finished ones with them.
    OwnedTable(
        "jobs.jobs", rows="state in ('attempting', 'unknown') or (replayed_after > 0 and state not in ('done', 'held'))"
    ),
    OwnedTable("suppressions.decisions", from_log=True),
    OwnedTable("suppressions.key_change", replaces=True),
    OwnedTable("templates.versions", from_log=True),
)
"""In an order in which foreign keys hold while the rows are restored."""

REBUILT_TABLES: Final = (
    *("projections.history", "projections.versions", "projections.timeline", "projections.evidence"),
    *("projections.requests", "projections.superseded_facts"),
    *("projections.statistics", "projections.statistics_groups", "projections.statistics_campaigns"),
    "projections.statistics_coverage",
    *("projections.mails", "projections.next_offsets", "jobs.next_offsets", "correlation.provider_ids"),
    *("correlation.parked", "correlation.next_offsets", "suppressions.next_offsets", "templates.next_offsets"),
    # Whoever is signed in to the console signs in again.
    "admin.console_sessions",
    "public.schema_migrations",
    *("exports.jobs", "exports.chunks"),
)
"""The tables that are not saved."""


class LogState(msgspec.Struct, frozen=True, kw_only=True):
    """The log when a backup was made: the cluster, the prefix of its topics, and where each partition ended."""

    cluster_id: str
    topic_prefix: str
    ends: dict[str, int]
    """Topic, without the prefix, and partition, as `topic/partition`, to the end offset."""


class BackupHeader(msgspec.Struct, frozen=True, kw_only=True, tag="header"):
    """The first part of a backup."""

    version: str
    """Of Mailfold."""
    made_at: int
    """Milliseconds since the Unix epoch, by the database's clock, when its snapshot was taken."""
    migrations: tuple[str, ...]
    feature_level: int
    secrets: tuple[SecretFingerprint, ...]
    """Under which credentials were sealed, the one that sealed first, and addresses hashed."""
    log: LogState | None
    """None if Kafka did not answer."""


class TableStart(msgspec.Struct, frozen=True, tag="table"):
    """The beginning of a table's rows."""

    name: str
    columns: tuple[str, ...]


class TableRows(msgspec.Struct, frozen=True, tag="rows"):
    """Rows of the table that began last, in Postgres' text format of COPY, compressed with zstd."""

    data: bytes


class BackupEnd(msgspec.Struct, frozen=True, tag="end"):
    """The last part: how many rows each table has."""

    rows: dict[str, int]


BackupPart = BackupHeader | TableStart | TableRows | BackupEnd
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(BackupPart)


def encode_part(part: BackupPart) -> bytes:
    """Return the bytes of a part."""
    return _ENCODER.encode(part)


def decode_part(data: bytes) -> BackupPart:
    """Return the part in these bytes, which the file's seal proved to be ours."""
    part: BackupPart = _DECODER.decode(data)
    return part
