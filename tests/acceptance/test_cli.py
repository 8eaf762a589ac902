"""The command line as people meet it: what it tells, what it refuses, and what it says then."""

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli.main import COMMAND_PANELS
from pipeline.settings import Settings, environment_of
from tests.conftest import SECRET
from tests.support.command import mailfold

NOWHERE = "postgresql://postgres@127.0.0.1:1/postgres"


def test_help_tells_the_story_in_the_order_of_an_emails_way() -> None:
    said = mailfold("--help", env={"COLUMNS": "100"})
    assert said.code == 0
    assert re.findall(r"^│ ([a-z]+) ", said.out, re.MULTILINE) == [
        name for names in COMMAND_PANELS.values() for name in names
    ]


def test_the_settings_page_is_printed() -> None:
    said = mailfold("settings")
    assert said.out.startswith("# Settings\n")
    assert "| `KAFKA_BOOTSTRAP` |" in said.out


@pytest.mark.parametrize("role", COMMAND_PANELS["The roles, in the order of an email's way"])
def test_a_role_without_kafka_says_so(role: str) -> None:
    said = mailfold(role, env={"MAILFOLD_SECRET": SECRET})
    assert (said.code, said.out) == (1, "")
    assert said.err.splitlines()[-1] == (
        "mailfold: KAFKA_BOOTSTRAP: missing; `mailfold up` starts a Kafka of its own, other roles need yours"
    )
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"MAILFOLD_PORT": "http"}, "MAILFOLD_PORT: Input should be a valid integer"),
        ({"MAILFOLD_PORT": "70000"}, "MAILFOLD_PORT: Input should be less than or equal to 65535"),
        ({"MAILFOLD_LOG_LEVEL": "LOUD"}, "MAILFOLD_LOG_LEVEL: String should match pattern"),
        ({"MAILFOLD_EMIT_SCHEDULE": "[5, -1]"}, "MAILFOLD_EMIT_SCHEDULE"),
        ({"MAILFOLD_EMIT_SCHEDULE": "soon"}, "MAILFOLD_EMIT_SCHEDULE"),
        ({"MAILFOLD_SECRET": "short", "KAFKA_BOOTSTRAP": "127.0.0.1:1"}, "MAILFOLD_SECRET: at least 32 characters"),
        ({"MAILFOLD_SECRET": SECRET, "KAFKA_BOOTSTRAP": "127.0.0.1:1"}, "DATABASE_URL: missing"),
        (
            {"MAILFOLD_SECRET": SECRET, "KAFKA_BOOTSTRAP": "127.0.0.1:1", "DATABASE_URL": "mysql://x"},
            "DATABASE_URL: ",
        ),
        (
            {"MAILFOLD_SECRET": SECRET, "KAFKA_BOOTSTRAP": "127.0.0.1:1", "DATABASE_URL": NOWHERE},
            "Postgres at DATABASE_URL does not answer",
        ),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(env: dict[str, str], words: str) -> None:
    said = mailfold("project", env=env)
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("mailfold: "), said.err
    assert words in said.err.splitlines()[-1]
    assert "Traceback" not in said.err


def test_a_kafka_that_is_away_is_named(tmp_path: Path) -> None:
    said = mailfold("topics", "check", env={"KAFKA_BOOTSTRAP": "127.0.0.1:1"}, cwd=tmp_path)
    assert said.code == 1
    assert said.err.startswith("mailfold: Kafka at KAFKA_BOOTSTRAP=127.0.0.1:1 does not answer")
    assert len(said.err.splitlines()) == 1


def test_where_no_stack_runs_a_command_says_what_to_do(tmp_path: Path) -> None:
    said = mailfold("tenants", "list", cwd=tmp_path)
    assert said.err == (
        f"mailfold: DATABASE_URL: missing, and no stack runs in {tmp_path}/.mailfold; set it, or start `mailfold up`\n"
    )
    said = mailfold("topics", "check", cwd=tmp_path)
    assert said.err.startswith(f"mailfold: KAFKA_BOOTSTRAP: missing, and no stack runs in {tmp_path}/.mailfold;")


def test_up_on_a_taken_port_starts_nothing(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = mailfold("up", env={"MAILFOLD_PORT": str(port), "MAILFOLD_DATA_DIR": str(tmp_path)})
    assert said.code == 1
    assert f"mailfold: MAILFOLD_PORT: 127.0.0.1:{port} is taken by another program" in said.err
    assert not (tmp_path / "kafka").exists()


def test_a_folder_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = mailfold("up", env={"MAILFOLD_DATA_DIR": str(tmp_path / "file")})
    assert said.err == f"mailfold: {tmp_path}/file: not a folder; set MAILFOLD_DATA_DIR to one\n"


def test_an_operator_sets_up_a_house(settings: Settings) -> None:
    run = _runner(environment_of(settings) | {"THE_KEY": "abc"})
    assert run("migrate")[0].startswith("the database is at 0")
    run("tenants", "add", "acme", "--batch-max", "50", "--rate", "2.5")
    assert run("tenants", "list")[1].split() == ["acme", "50", "2.5"]

    provider = ["providers", "add", "relay", "--host", "smtp.example", "--username", "me", "--password-env", "-"]
    run(*provider, stdin="s3cr3t\n")
    listed = run("providers", "list")[1]
    assert "smtp.example" in listed
    assert "s3cr3t" not in listed

    run("brands", "add", "*", "--provider", "relay", "--tenant", "acme", "--unknown", "hold")
    assert run("brands", "list")[1].split() == ["acme", "*", "relay", "hold"]
    sender = ["--sender", "Shop, the <news@shop.example>"]
    run("providers", "add", "spare", "--host", "smtp2.example")
    run("brands", "add", "7", "--provider", "relay", "--tenant", "acme", *sender)
    assert run("brands", "route", "7", "relay=3", "spare=1", "--tenant", "acme") == [
        "brand 7 of acme sends through relay (3), spare (1)"
    ]
    dkim = ["--domain", "shop.example", "--selector", "mf1"]
    [record] = run("brands", "dkim", "7", *dkim, "--ed25519", "--tenant", "acme")
    assert record.startswith('mf1._domainkey.shop.example. IN TXT "v=DKIM1; k=ed25519; p=')
    run("brands", "add", "7", "--provider", "relay", "--tenant", "acme", *sender)
    assert run("brands", "dns", "7", "--tenant", "acme") == [record], "what is not said stays"
    listed = " ".join(run("brands", "list")[2].split())
    assert listed == "acme 7 relay=3 spare=1 resend Shop, the <news@shop.example> mf1._domainkey.shop.example"
    run("lanes", "pause", "provider", "spare")
    assert "spare" in "".join(run("status"))
    run("brands", "dkim", "7", "--remove", "--tenant", "acme")
    run("destinations", "add", "https://ft.example/hook/", "--tenant", "acme", "--brand", "7", "--key-env", "THE_KEY")
    assert run("destinations", "list")[1].split() == ["acme", "7", "https://ft.example/hook", *["as", "it", "came"]]
    add = ["destinations", "add", "https://ft.example/hook/", "--tenant", "acme", "--brand", "7"]
    run(*add, "--key-env", "THE_KEY", "--user-id-integer")
    assert run("destinations", "list")[1].split()[-3:] == ["as", "a", "number"]
    assert "all topics are as they must be" in run("topics", "check")


def test_a_key_is_shown_once_and_can_be_revoked(settings: Settings) -> None:
    run = _runner(environment_of(settings))
    run("tenants", "add", "acme")
    key = run("keys", "add", "acme", "--label", "first")[0].strip()
    assert key.startswith("mf_")
    listed = run("keys", "list")[1]
    assert key not in listed
    run("keys", "revoke", listed.split()[0])
    assert len(run("keys", "list")[1].split()) > len(listed.split())


def _runner(env: dict[str, str]) -> Callable[..., list[str]]:
    def run(*arguments: str, stdin: str = "") -> list[str]:
        said = mailfold(*arguments, env=env, stdin=stdin)
        assert said.code == 0, said.err
        return said.out.splitlines()

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["keys", "add", "nobody"], "it refers to something that doesn't exist"),
        (["keys", "revoke", "nothing"], "no API key nothing in force; `mailfold keys list` shows their names"),
        (["tenants", "add", "Not A Name"], "not a value that can be taken: tenants_tenant_check"),
        (
            ["providers", "add", "x", "--host", "h", "--tls", "maybe"],
            "not a value that can be taken: providers_tls_check",
        ),
        (["providers", "add", "x", "--host", "h", "--kind", "fax"], "fax: no kind of provider; one of smtp, sandbox"),
        (
            ["providers", "add", "x", "--host", "h", "--kind", "mailgun", "--webhook-key", "abc"],
            "the webhook key of mailgun is a secret: name where it stands with --webhook-key-env",
        ),
        (["providers", "add", "x", "--host", "h", "--username", "me"], "SMTP password: name the environment variable"),
        (["providers", "add", "x", "--host", "h", "--password-env", "UNSET"], "SMTP password: UNSET is empty"),
        (["destinations", "add", "ftp://x", "--key-env", "HOME"], "ftp://x: not an http or https URL"),
        (["destinations", "add", "http://ft.example/x", "--key-env", "HOME"], "not https, and its key travels there"),
        (["destinations", "add", "http://[::1", "--key-env", "HOME"], "http://[::1: not a URL"),
        (["destinations", "add", "https://x:70000/", "--key-env", "HOME"], "https://x:70000/: not a URL"),
        (["destinations", "add", "https://u:p@x", "--key-env", "HOME"], "credentials, ? and # have no place here"),
        (["brands", "add", "*", "--provider", "none"], "it refers to something that doesn't exist"),
        (["brands", "add", "*", "--provider", "none", "--sender", "Shop"], "not a sender like"),
        (["brands", "route", "*", "none=1"], "it refers to something that doesn't exist"),
        (["brands", "route", "*", "none=0"], "none=0: not provider=weight with a weight above 0"),
        (["brands", "dkim", "*", "--domain", "x.example", "--selector", "s"], "tenant default has no brand *"),
        (["brands", "dkim", "*", "--domain", "x y", "--selector", "s"], "x y: not a domain"),
        (["providers", "add", "x", "--kind", "ses", "--via", "api", "--password-env", "HOME"], "ses needs a region"),
        (
            ["providers", "add", "x", "--kind", "brevo", "--via", "api", "--password-env", "HOME"],
            "brevo: mail goes there by SMTP",
        ),
    ],
)
def test_a_decision_that_cannot_be_is_refused_in_a_sentence(
    settings: Settings, arguments: list[str], words: str
) -> None:
    said = mailfold(*arguments, env=environment_of(settings))
    assert said.code == 1
    assert said.err.startswith("mailfold: ")
    assert words in said.err
    assert "Traceback" not in said.err


def test_destination_that_would_be_refused_or_read_on_the_way_is_warned_of_at_once(settings: Settings) -> None:
    env = {**environment_of(settings), "THE_KEY": "k", "MAILFOLD_ALLOW_PRIVATE_DESTINATIONS": "false"}

    def add(url: str, *more: str, **changed: str) -> str:
        said = mailfold("destinations", "add", url, "--key-env", "THE_KEY", *more, env={**env, **changed})
        assert said.code == 0, said.err
        return said.err

    private = "leads to a private address"
    mailfold("tenants", "add", "default", env=env)
    assert private in add("https://169.254.169.254/hook")
    assert private in add("http://127.0.0.1:8080/hook")
    assert private not in add("http://127.0.0.1:8080/hook", MAILFOLD_ALLOW_PRIVATE_DESTINATIONS="true")
    assert add("https://93.184.216.34/hook") == ""
    assert "can't be looked up" in add("https://nobody.invalid/hook")
    assert "plain http" in add("http://93.184.216.34/hook", "--insecure-http")
    assert "plain http" in mailfold("destinations", "list", env=env).err
    assert "destination default/* is plain http" in mailfold("status", env=env).out


def test_a_credential_is_no_argument() -> None:
    for command in (["providers", "add"], ["destinations", "add"]):
        said = mailfold(*command, "--help", env={"COLUMNS": "160"})
        assert "--password " not in said.out
        assert "--key " not in said.out
