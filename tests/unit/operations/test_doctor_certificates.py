"""Until when certificates in files and of servers are valid, as `mailfold doctor` says it."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.operations.doctor import certificates, postgres_tls
from pipeline.operations.doctor.certificates import NoTlsOffered, authorities_finding, chain_finding, key_pair_finding
from pipeline.operations.doctor.postgres_tls import find_certificates
from pipeline.settings import Settings
from tests.support.certificates import TestAuthority, write
from tests.support.tls_proxy import tls_proxy

AUTHORITY = TestAuthority("a CA")


def issued(days: int) -> bytes:
    return AUTHORITY.issue("127.0.0.1", "127.0.0.1", days=days)[0]


@pytest.mark.parametrize(("days", "verdict"), [(-1, "fail"), (3, "warn"), (90, "ok")])
def test_chain_is_valid_until_its_first_certificate_ends(days: int, verdict: str, tmp_path: Path) -> None:
    path = Path(write(tmp_path, "chain.pem", issued(365), issued(days)))
    assert chain_finding("X", path).verdict == verdict


def test_bundle_of_authorities_may_keep_old_ones(tmp_path: Path) -> None:
    assert authorities_finding("X", Path(write(tmp_path, "both.pem", issued(-1), issued(90)))).verdict == "ok"
    assert authorities_finding("X", Path(write(tmp_path, "old.pem", issued(-1)))).verdict == "fail"


@pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=["missing", "empty", "another file"])
def test_file_that_can_not_be_read_fails(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    assert chain_finding("KAFKA_SSL_CERTIFICATE_FILE", tmp_path / "file").verdict == "fail"


def test_certificate_for_inbound_mail_must_have_its_own_key(tmp_path: Path) -> None:
    certificate, key = AUTHORITY.issue("m.shop.com", days=90)
    _, other = AUTHORITY.issue("m.shop.com", days=90)
    chain = write(tmp_path, "chain.pem", certificate)
    assert key_pair_finding("X", chain, write(tmp_path, "own.key", key)).verdict == "ok"
    assert key_pair_finding("X", chain, write(tmp_path, "other.key", other)).verdict == "fail"
    assert key_pair_finding("X", chain, "").verdict == "fail"
    assert key_pair_finding("X", write(tmp_path, "both.pem", certificate, key), "").verdict == "ok"


@contextlib.asynccontextmanager
async def postgres_with_tls(folder: Path, days: int) -> AsyncIterator[int]:
    """Speak TLS as Postgres does, with nothing behind it; yield the port."""
    certificate, key = AUTHORITY.issue("127.0.0.1", "127.0.0.1", days=days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write(folder, "server.pem", certificate, key))
    async with tls_proxy(1, context) as port:
        yield port


@pytest.mark.parametrize(("days", "verdict"), [(-1, "fail"), (3, "warn"), (90, "ok")])
async def test_certificate_of_each_postgres_host_is_read(days: int, verdict: str, tmp_path: Path) -> None:
    async with postgres_with_tls(tmp_path, days) as port:
        url = SecretStr(f"postgresql://u:secret-word@127.0.0.1:{port},127.0.0.1:1/x")
        found = await find_certificates(Settings(database_url=url))
    assert [(row.verdict, f"127.0.0.1:{port} of DATABASE_URL" in row.text) for row in found] == [
        (verdict, True),
        ("warn", False),
    ]
    assert "127.0.0.1:1 of DATABASE_URL can't be reached" in found[1].text
    assert "secret-word" not in str(found)


async def test_each_server_is_asked_once_and_files_in_urls_are_read(tmp_path: Path) -> None:
    own = write(tmp_path, "client.pem", issued(3))
    async with postgres_with_tls(tmp_path, 90) as port:
        url = f"postgresql://127.0.0.1:{port}/x"
        settings = Settings(
            database_url=SecretStr(url),
            database_session_url=SecretStr(f"{url}?application_name=y"),
            database_read_url=SecretStr(f"{url}?sslmode=verify-full&sslcert={own}&sslrootcert={own}"),
        )
        found = [(row.verdict, row.text.partition(":")[0]) for row in await find_certificates(settings)]
    assert sorted(found) == [
        ("ok", "127.0.0.1"),
        ("warn", "sslcert of DATABASE_READ_URL"),
        ("warn", "sslrootcert of DATABASE_READ_URL"),
    ]


async def test_server_without_tls_and_sockets_have_no_line() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"N")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(NoTlsOffered):
            await certificates.read_postgres_certificate("127.0.0.1", port)
        for url in (f"postgresql://127.0.0.1:{port}/x", "postgresql:///x?host=/run/postgresql", "postgresql:///x"):
            assert await find_certificates(Settings(database_url=SecretStr(url))) == []
        disabled = f"postgresql://127.0.0.1:{port}/x?sslmode=disable"
        assert list(postgres_tls._servers_of({"host": "127.0.0.1", "sslmode": "disable"})) == []
        assert await find_certificates(Settings(database_url=SecretStr(disabled))) == []


async def test_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "CONNECT_TIMEOUT_S", 0.1)

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()  # from Python 3.12 on the server waits for that

    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        [finding] = await find_certificates(Settings(database_url=SecretStr(f"postgresql://127.0.0.1:{port}/x")))
    assert (finding.verdict, "no answer" in finding.text) == ("warn", True)
