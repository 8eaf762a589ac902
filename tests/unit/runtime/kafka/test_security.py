"""Transport security of Kafka clients: which settings go together, which files load, and that no secret shows."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.errors import InvalidSettings
from pipeline.runtime.environment import environment_of, load_settings
from pipeline.runtime.kafka.security import RenewedSslContext, TlsFiles, check_security, security_options
from pipeline.settings import Settings
from tests.support.certificates import TestAuthority, write

SECRET = "hunter2-hunter2"
SCRAM = {
    "kafka_security_protocol": "SASL_SSL",
    "kafka_sasl_mechanism": "SCRAM-SHA-512",
    "kafka_sasl_username": "anna",
    "kafka_sasl_password": SecretStr(SECRET),
}
OAUTH = {
    "kafka_security_protocol": "SASL_SSL",
    "kafka_sasl_mechanism": "OAUTHBEARER",
    "kafka_oauth_token_url": "https://login.example/token",
    "kafka_oauth_client_id": "mailfold",
    "kafka_oauth_client_secret": SecretStr(SECRET),
}
NO_MECHANISM = "KAFKA_SASL_MECHANISM: missing; KAFKA_SECURITY_PROTOCOL=SASL_SSL needs PLAIN, SCRAM-SHA-256"


def settings_with(**values: Any) -> Settings:
    return Settings(kafka_bootstrap="a:1", **values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kafka_security_protocol": "SSL"},
        {"kafka_security_protocol": "SSL", "kafka_ssl_certificate_file": "both.pem"},
        SCRAM,
        SCRAM | {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_mechanism": "PLAIN"},
        OAUTH,
        OAUTH | {"kafka_oauth_token_url": "http://127.0.0.1:8080/token"},
        OAUTH | {"kafka_oauth_token_url": "http://[::1]/token"},
    ],
)
def test_consistent_settings_are_accepted(values: dict[str, Any]) -> None:
    check_security(settings_with(**values))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"kafka_security_protocol": "SASL_SSL"}, NO_MECHANISM),
        (
            {"kafka_sasl_password": SecretStr(SECRET)},
            "KAFKA_SASL_PASSWORD: set, but KAFKA_SECURITY_PROTOCOL=PLAINTEXT has no login",
        ),
        ({"kafka_ssl_ca_file": "ca.pem"}, "KAFKA_SSL_CA_FILE: set, but KAFKA_SECURITY_PROTOCOL=PLAINTEXT has no TLS"),
        (SCRAM | {"kafka_sasl_username": ""}, "KAFKA_SASL_USERNAME: missing; KAFKA_SASL_MECHANISM=SCRAM-SHA-512"),
        (SCRAM | {"kafka_sasl_password": SecretStr("")}, "KAFKA_SASL_PASSWORD: missing"),
        (SCRAM | {"kafka_security_protocol": "SSL"}, "KAFKA_SASL_USERNAME: set, but KAFKA_SECURITY_PROTOCOL=SSL"),
        (SCRAM | {"kafka_oauth_client_id": "x"}, "KAFKA_OAUTH_CLIENT_ID: set, but KAFKA_SASL_MECHANISM=SCRAM-SHA-512"),
        (OAUTH | {"kafka_oauth_client_secret": SecretStr("")}, "KAFKA_OAUTH_CLIENT_SECRET: missing"),
        (OAUTH | {"kafka_sasl_username": "anna"}, "KAFKA_SASL_USERNAME: set, but KAFKA_SASL_MECHANISM=OAUTHBEARER"),
        (OAUTH | {"kafka_oauth_token_url": "http://login.example/token"}, "must begin with https://"),
        (OAUTH | {"kafka_oauth_token_url": "http://127.0.0.1.example/token"}, "must begin with https://"),
        (OAUTH | {"kafka_oauth_token_url": "http://[half"}, "must begin with https://"),
        (
            {"kafka_security_protocol": "SSL", "kafka_ssl_key_file": "a.key"},
            "KAFKA_SSL_KEY_FILE: set without KAFKA_SSL_CERTIFICATE_FILE",
        ),
    ],
)
def test_contradicting_settings_are_refused_in_one_sentence_each(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        check_security(settings_with(**values))
    assert problem in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("bootstrap", ["", "a", "a:9092", "a:1, b:2", "127.0.0.1:9", "[::1]:9", "::1", "a:1,"])
def test_addresses_are_accepted_as_before(bootstrap: str) -> None:
    check_security(Settings(kafka_bootstrap=bootstrap))


@pytest.mark.parametrize("address", ["a:b", "a:", "a:99999", "a:-1", "[::1", "[::1]x", "a:0"])
def test_address_without_host_and_port_is_refused(address: str) -> None:
    with pytest.raises(InvalidSettings, match=r"^KAFKA_BOOTSTRAP: .*: not host:port$"):
        check_security(Settings(kafka_bootstrap=f"good:9092, {address}"))


def test_address_with_a_protocol_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="KAFKA_BOOTSTRAP: SASL_SSL://a:9093: leave the protocol out"):
        check_security(Settings(kafka_bootstrap="SASL_SSL://a:9093"))


def test_every_problem_has_a_line() -> None:
    with pytest.raises(InvalidSettings) as caught:
        check_security(settings_with(**SCRAM | {"kafka_sasl_username": "", "kafka_sasl_password": SecretStr("")}))
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "KAFKA_SASL_USERNAME",
        "KAFKA_SASL_PASSWORD",
    ]


@pytest.mark.parametrize("variable", ["KAFKA_SECURITY_PROTOCOL", "KAFKA_SASL_MECHANISM"])
def test_unknown_word_is_refused_with_the_known_ones(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "NONSENSE")
    with pytest.raises(InvalidSettings, match=rf"{variable}: Input should be .*'(SASL_SSL|OAUTHBEARER)'"):
        load_settings()


def test_secrets_do_not_show_in_settings_and_reach_child_processes_by_environment() -> None:
    made = settings_with(**SCRAM, kafka_ssl_key_password=SecretStr(SECRET))
    assert SECRET not in repr(made)
    assert SECRET not in str(made)
    assert environment_of(made)["KAFKA_SASL_PASSWORD"] == SECRET
    assert SECRET not in repr(security_options(settings_with(**OAUTH)))


def test_embedded_kafka_has_no_security() -> None:
    made = settings_with(**SCRAM, kafka_group_instance_id="worker-0").with_embedded_kafka("127.0.0.1:9")
    assert made == Settings(kafka_bootstrap="127.0.0.1:9")
    assert security_options(made) == {"security_protocol": "PLAINTEXT"}


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority("a CA")


def tls_files(**paths: str) -> TlsFiles:
    password = SecretStr(paths.pop("password", ""))
    return TlsFiles(**({"ca": "", "certificate": "", "key": ""} | paths), key_password=password)


def test_host_names_and_certificates_are_verified(authority: TestAuthority, tmp_path: Path) -> None:
    for files in (tls_files(), tls_files(ca=write(tmp_path, "ca.pem", authority.pem))):
        for context in (RenewedSslContext(files), RenewedSslContext(files)._current):
            assert context.check_hostname
            assert context.verify_mode is ssl.CERT_REQUIRED
            assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_encrypted_key_is_read_with_its_password(authority: TestAuthority, tmp_path: Path) -> None:
    certificate, key = authority.issue("anna", password="pass wörd")
    paths = {"certificate": write(tmp_path, "c.pem", certificate), "key": write(tmp_path, "k.pem", key)}
    RenewedSslContext(tls_files(**paths, password="pass wörd"))
    both = write(tmp_path, "both.pem", key, certificate)
    RenewedSslContext(tls_files(certificate=both, password="pass wörd"))
    for wrong in ("", "another", "x" * 2000):
        with pytest.raises(InvalidSettings, match=r"KAFKA_SSL_CERTIFICATE_FILE=.*c\.pem"):
            RenewedSslContext(tls_files(**paths, password=wrong))


def test_file_that_cannot_be_used_is_named_with_its_setting(authority: TestAuthority, tmp_path: Path) -> None:
    certificate, key = authority.issue("anna")
    _, other_key = authority.issue("bert")
    good = write(tmp_path, "good.pem", certificate)
    cases = {
        "KAFKA_SSL_CA_FILE=/nowhere/ca.pem: No such file or directory": {"ca": "/nowhere/ca.pem"},
        f"KAFKA_SSL_CA_FILE={tmp_path}: Is a directory": {"ca": str(tmp_path)},
        "no certificate in PEM format": {"ca": write(tmp_path, "noise.pem", b"\x00\xff noise")},
        "KAFKA_SSL_CERTIFICATE_FILE=/nowhere: No such file": {"certificate": "/nowhere"},
        "KAFKA_SSL_KEY_FILE=/nowhere: No such file": {"certificate": good, "key": "/nowhere"},
        "no certificate with its key in PEM format": {"certificate": good},
        "KAFKA_SSL_KEY_FILE holds the key of another certificate": {
            "certificate": good,
            "key": write(tmp_path, "other.key", other_key),
        },
    }
    for problem, paths in cases.items():
        with pytest.raises(InvalidSettings) as caught:
            RenewedSslContext(tls_files(**paths))
        assert problem in str(caught.value)
        assert "\n" not in str(caught.value)
    RenewedSslContext(tls_files(certificate=good, key=write(tmp_path, "good.key", key)))


def test_unreadable_file_is_named_with_its_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root, who may run the tests, reads everything
    with pytest.raises(InvalidSettings, match=r"KAFKA_SSL_CA_FILE=.*ca\.pem: Permission denied"):
        RenewedSslContext(tls_files(ca=str(tmp_path / "ca.pem")))


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    """Exchange TLS messages in memory until the client has verified the server; return the server's subject."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    certificate: Any = here.getpeercert()
    return str(dict(name for (name,) in certificate["subject"])["commonName"])


def server_of(authority: TestAuthority, folder: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write(folder, f"{name}.pem", *reversed(authority.issue(name, "127.0.0.1"))))
    return context


def test_replaced_files_are_used_for_the_next_connection(authority: TestAuthority, tmp_path: Path) -> None:
    ca = write(tmp_path, "ca.pem", authority.pem)
    client = RenewedSslContext(tls_files(ca=ca))
    assert handshake(client, server_of(authority, tmp_path, "old")) == "old"
    renewed = TestAuthority("the next CA")
    server = server_of(renewed, tmp_path, "new")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client, server)
    write(tmp_path, "ca.pem", renewed.pem + b"\n")
    assert handshake(client, server) == "new"


def test_half_written_files_leave_the_old_ones_in_use(authority: TestAuthority, tmp_path: Path) -> None:
    ca = write(tmp_path, "ca.pem", authority.pem)
    client = RenewedSslContext(tls_files(ca=ca))
    for content in (b"", authority.pem[:40]):
        write(tmp_path, "ca.pem", content)
        assert handshake(client, server_of(authority, tmp_path, "server")) == "server"
    (tmp_path / "ca.pem").unlink()
    assert handshake(client, server_of(authority, tmp_path, "server")) == "server"


def test_clients_of_a_process_share_context_and_tokens() -> None:
    first, second = (security_options(settings_with(**OAUTH)) for _ in range(2))
    assert first["ssl_context"] is second["ssl_context"]
    assert first["sasl_oauth_token_provider"] is second["sasl_oauth_token_provider"]
