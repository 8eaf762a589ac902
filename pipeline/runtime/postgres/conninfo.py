"""Build the libpq connection strings of the three database URLs; everything that connects to Postgres uses them.

DATABASE_URL may lead to a pooler that gives each transaction another connection. DATABASE_SESSION_URL leads past it to
the server, for what belongs to a session: notifications, advisory locks, migrations. DATABASE_READ_URL may lead to a
standby.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from pipeline.errors import InvalidSettings
from pipeline.settings import Settings


def program_version() -> str:
    """Return this version of Mailfold; "unknown" where it runs from a checkout that is not installed."""
    try:
        return version("mailfold")
    except PackageNotFoundError:
        return "unknown"


APPLICATION_NAME: Final = f"mailfold/{program_version()}"
"""The name under which the connections of this version are listed in pg_stat_activity."""
_DEFAULT_PARAMETERS: Final = {
    "connect_timeout": "5",
    # A server that vanishes without a word is noticed within 20 seconds, instead of after hours.
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
"""Parameters that a URL need not name; times in seconds, the last in milliseconds."""
_WRITABLE: Final = {"target_session_attrs": "read-write"}
"""Of several hosts the one that accepts writes; a server that accepts none is as unavailable as one that is down."""


def pooled_conninfo(settings: Settings) -> str:
    """Return the connection string for short transactions. Raise InvalidSettings for a missing or invalid URL."""
    if not settings.database_url.get_secret_value():
        raise InvalidSettings(
            "DATABASE_URL: missing; `mailfold up` starts a Postgres of its own, other roles need yours"
        )
    return _conninfo("DATABASE_URL", settings.database_url, _WRITABLE)


def session_conninfo(settings: Settings) -> str:
    """Return the connection string for a session of one's own. Raise InvalidSettings for a missing or invalid URL."""
    if not is_behind_pooler(settings):
        return pooled_conninfo(settings)
    return _conninfo("DATABASE_SESSION_URL", settings.database_session_url, _WRITABLE)


def standby_conninfo(settings: Settings) -> str | None:
    """Return the connection string of the standby, or None where there is none. Raise InvalidSettings."""
    if not settings.database_read_url.get_secret_value():
        return None
    return _conninfo("DATABASE_READ_URL", settings.database_read_url, {})


def is_behind_pooler(settings: Settings) -> bool:
    """Return whether DATABASE_URL may be a pooler in transaction mode, which keeps no state between transactions."""
    return bool(settings.database_session_url.get_secret_value())


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; libpq's have a line for each host."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _conninfo(name: str, url: SecretStr, defaults: dict[str, str]) -> str:
    try:
        given = conninfo_to_dict(url.get_secret_value())
    except psycopg.ProgrammingError:
        # The error's own message repeats the URL with its password.
        raise InvalidSettings(f"{name}: not a libpq URL, such as postgresql://user:password@host:5432/name") from None
    return make_conninfo("", **{**_DEFAULT_PARAMETERS, **defaults, **given, "application_name": APPLICATION_NAME})
