"""TLS to Postgres as a URL asks for it: the server's certificate and its name are verified, everywhere."""

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from pydantic import SecretStr

from pipeline.errors import DatabaseUnavailable
from pipeline.runtime.postgres.database import connect_session, open_database, open_standby
from pipeline.settings import Settings
from tests.support.smtp_receiver import certificate
from tests.support.tls_proxy import tls_proxy

VERIFY = "sslmode=verify-full&sslrootcert={}"


def through(url: str, port: int, query: str, host: str = "127.0.0.1") -> SecretStr:
    parts = urlsplit(url)
    netloc = f"{parts.username}:{parts.password}@{host}:{port}"
    return SecretStr(urlunsplit(parts._replace(netloc=netloc, query=query)))


async def test_verified_server_is_used_by_pool_session_and_standby(database_url: str, tmp_path: Path) -> None:
    context, trusted = certificate(tmp_path)
    async with tls_proxy(urlsplit(database_url).port or 5432, context) as port:
        url = through(database_url, port, VERIFY.format(trusted))
        made = Settings(database_url=url, database_session_url=url, database_read_url=url)
        async with (
            open_database(made, size=1) as pool,
            open_standby(made, size=1) as standby,
            await connect_session(made) as session,
        ):
            assert standby is not None
            assert session.pgconn.ssl_in_use
            for each in (pool, standby):
                async with each.connection() as connection:
                    assert connection.pgconn.ssl_in_use


async def test_unknown_authority_and_wrong_name_are_refused_in_one_sentence(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    context, trusted = certificate(tmp_path)
    _, other = certificate(tmp_path / "other")
    async with tls_proxy(urlsplit(database_url).port or 5432, context) as port:
        for url, words in (
            (through(database_url, port, VERIFY.format(other)), "certificate verify failed"),
            (through(database_url, port, VERIFY.format(trusted), "localhost"), 'does not match host name "localhost"'),
        ):
            with pytest.raises(DatabaseUnavailable, match=words) as caught:
                async with open_database(Settings(database_url=url), size=1):
                    pass
            assert "\n" not in str(caught.value)


async def test_server_without_tls_is_refused(database_url: str, tmp_path: Path) -> None:
    _, trusted = certificate(tmp_path)
    port = urlsplit(database_url).port or 5432
    url = through(database_url, port, VERIFY.format(trusted))
    with pytest.raises(DatabaseUnavailable, match="server does not support SSL"):
        async with open_database(Settings(database_url=url), size=1):
            pass
