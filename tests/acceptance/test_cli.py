"""Run the installed command line as people do, and check its output, its errors and its exit codes."""

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import admin
from pipeline.cli.main import COMMAND_PANELS
from pipeline.runtime.environment import environment_of
from pipeline.settings import Settings
from tests.conftest import SECRET
from tests.support.command import mailfold

NOWHERE = "postgresql://postgres@127.0.0.1:1/postgres"


def test_help_lists_commands_in_the_order_of_the_panels() -> None:
    result = mailfold("--help", env={"COLUMNS": "100"})
    assert result.code == 0
    assert re.findall(r"^│ ([a-z]+) ", result.out, re.MULTILINE) == [
        name for names in COMMAND_PANELS.values() for name in names
    ]


def test_settings_command_prints_the_settings_page() -> None:
    result = mailfold("settings")
    assert result.out.startswith("# Settings\n")
    assert "| `KAFKA_BOOTSTRAP` |" in result.out


@pytest.mark.parametrize("role", COMMAND_PANELS["Roles, in the order in which an email passes them"])
def test_role_without_kafka_setting_exits_with_one_error(role: str) -> None:
    result = mailfold(role, env={"MAILFOLD_SECRET": SECRET})
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1] == (
        "mailfold: KAFKA_BOOTSTRAP: missing; `mailfold up` starts a Kafka of its own, other roles need yours"
    )
    assert "Traceback" not in result.err


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
    ],
)
def test_invalid_setting_is_reported_in_one_sentence_with_its_name(env: dict[str, str], words: str) -> None:
    result = mailfold("project", env=env)
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith("mailfold: "), result.err
    assert words in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_unreachable_postgres_is_reported_in_one_sentence(tmp_path: Path) -> None:
    result = mailfold("tenants", "list", env={"DATABASE_URL": NOWHERE}, cwd=tmp_path)
    assert result.code == 1
    assert result.err.startswith("mailfold: Postgres at DATABASE_URL does not answer: ")
    assert len(result.err.splitlines()) == 1


def test_unreachable_kafka_is_reported_with_its_address(tmp_path: Path) -> None:
    result = mailfold("topics", "check", env={"KAFKA_BOOTSTRAP": "127.0.0.1:1"}, cwd=tmp_path)
    assert result.code == 1
    assert result.err.startswith("mailfold: Kafka at KAFKA_BOOTSTRAP=127.0.0.1:1 does not answer")
    assert len(result.err.splitlines()) == 1


def test_command_without_a_running_stack_says_what_to_do(tmp_path: Path) -> None:
    result = mailfold("tenants", "list", cwd=tmp_path)
    assert result.err == (
        f"mailfold: DATABASE_URL: missing, and no stack runs in {tmp_path}/.mailfold; set it, or start `mailfold up`\n"
    )
    result = mailfold("topics", "check", cwd=tmp_path)
    assert result.err.startswith(f"mailfold: KAFKA_BOOTSTRAP: missing, and no stack runs in {tmp_path}/.mailfold;")


def test_up_with_a_port_in_use_starts_nothing(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = mailfold("up", env={"MAILFOLD_PORT": str(port), "MAILFOLD_DATA_DIR": str(tmp_path)})
    assert result.code == 1
    assert f"mailfold: MAILFOLD_PORT: 127.0.0.1:{port} is taken by another program" in result.err
    assert not (tmp_path / "kafka").exists()


def test_data_dir_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = mailfold("up", env={"MAILFOLD_DATA_DIR": str(tmp_path / "file")})
    assert result.err == f"mailfold: {tmp_path}/file: not a folder; set MAILFOLD_DATA_DIR to one\n"


def test_commands_configure_tenant_provider_brand_and_destination(settings: Settings) -> None:
    run = _runner(environment_of(settings) | {"THE_KEY": "abc"})
    assert run("migrate")[0].startswith("the database is at 0")
    run("tenants", "add", "acme", "--batch-max", "50", "--rate", "2.5")
    assert run("tenants", "list")[1].split() == ["acme", "50", "2.5", "of", "any", "domain"]

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
    assert run("brands", "dns", "7", "--tenant", "acme") == [record], "adding the brand again keeps its key"
    listed = " ".join(run("brands", "list")[2].split())
    assert listed == "acme 7 relay=3 spare=1 resend Shop, the <news@shop.example> mf1._domainkey.shop.example"
    run("lanes", "pause", "provider", "spare")
    assert "spare" in "".join(run("status"))
    run("brands", "dkim", "7", "--remove", "--tenant", "acme")
    run("destinations", "add", "https://ft.example/hook/", "--tenant", "acme", "--brand", "7", "--key-env", "THE_KEY")
    assert run("destinations", "list")[1].split() == ["acme", "7", "https://ft.example/hook", *["as", "received"]]
    add = ["destinations", "add", "https://ft.example/hook/", "--tenant", "acme", "--brand", "7"]
    run(*add, "--key-env", "THE_KEY", "--user-id-integer")
    assert run("destinations", "list")[1].split()[-3:] == ["as", "a", "number"]
    assert "all topics match the registry" in run("topics", "check")


def test_key_is_shown_once_and_can_be_revoked(settings: Settings) -> None:
    run = _runner(environment_of(settings))
    run("tenants", "add", "acme")
    key = run("keys", "add", "acme", "--label", "first")[0].strip()
    assert re.fullmatch(admin.KEY_PATTERN, key)
    listed = run("keys", "list")[1]
    assert key not in listed
    run("keys", "revoke", listed.split()[0])
    assert len(run("keys", "list")[1].split()) > len(listed.split())


@pytest.mark.ci
def test_key_is_listed_with_its_limits_rotated_and_revoked_by_itself(settings: Settings) -> None:
    env = environment_of(settings)
    run = _runner(env)
    run("tenants", "add", "acme")
    unscoped = mailfold("keys", "add", "acme", env=env)
    assert "warning: this key may do everything of tenant acme; --scope limits it" in unscoped.err
    limits = ["--scope", "send", "--scope", "history:read", "--brand", "7", "--network", "203.0.113.0/24"]
    limited = mailfold("keys", "add", "acme", "--label", "shop", *limits, "--expires", "2099-12-31", env=env)
    assert limited.err == ""
    listed = mailfold("keys", "list", env=env)
    assert "all (unscoped)" in listed.out
    assert "1 unscoped" in listed.err
    assert limited.out.strip() not in listed.out
    [row] = [line for line in listed.out.splitlines() if " shop " in line]
    for shown in ("history:read send", " 7 ", "203.0.113.0/24", "2100-01-01 00:00", "@"):
        assert shown in row

    rotated = mailfold("keys", "rotate", row.split()[0], "--overlap", "12h", env=env)
    assert re.fullmatch(admin.KEY_PATTERN, rotated.out.strip())
    assert f"key {row.split()[0]} works for 12h more" in rotated.err
    assert run("keys", "revoke", "-", stdin=limited.out) == [f"key {row.split()[0]} is revoked"]
    narrowed = run("keys", "rotate", "-", "--scope", "send", "--overlap", "1h", stdin=unscoped.out)
    assert len(narrowed[0]) == len(unscoped.out.strip())
    assert "(rotated)" in mailfold("keys", "list", env=env).out


def _runner(env: dict[str, str]) -> Callable[..., list[str]]:
    def run(*arguments: str, stdin: str = "") -> list[str]:
        result = mailfold(*arguments, env=env, stdin=stdin)
        assert result.code == 0, result.err
        return result.out.splitlines()

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["keys", "add", "nobody"], "it refers to something that doesn't exist"),
        (["keys", "add", "default", "--network", "203.0.113.9/24"], "is not a network such as 203.0.113.0/24"),
        (
            ["keys", "add", "default", "--expires", "soon"],
            "is neither a day such as 2027-06-30 nor a period such as 90d",
        ),
        (["keys", "add", "default", "--expires", "2020-01-01"], "'2020-01-01' is past"),
        (["keys", "add", "default", "--brand", "7"], "a key for one brand needs scopes"),
        (
            ["keys", "add", "default", "--brand", "7", "--scope", "templates:write"],
            "templates:write: concerns all brands of a tenant; make another key for it",
        ),
        (["keys", "rotate", "nothing"], "no API key nothing in force; `mailfold keys list` shows their names"),
        (["keys", "rotate", "nothing", "--overlap", "long"], "'long' is not a period such as 12h or 7d"),
        (["keys", "revoke", "nothing"], "no API key nothing in force; `mailfold keys list` shows their names"),
        (["tenants", "add", "Not A Name"], "not a value that can be taken: tenants_tenant_check"),
        (
            ["providers", "add", "x", "--host", "h", "--tls", "maybe"],
            "not a value that can be taken: providers_tls_check",
        ),
        (
            ["providers", "add", "x", "--host", "h", "--kind", "fax"],
            "fax: not a kind of provider; it must be one of smtp, sandbox",
        ),
        (
            ["providers", "add", "x", "--host", "h", "--kind", "mailgun", "--webhook-key", "abc"],
            "the webhook key of mailgun is a secret: give the name of its variable to --webhook-key-env",
        ),
        (["providers", "add", "x", "--host", "h", "--username", "me"], "SMTP password: name the environment variable"),
        (["providers", "add", "x", "--host", "h", "--password-env", "UNSET"], "SMTP password: UNSET is empty"),
        (["destinations", "add", "ftp://x", "--key-env", "HOME"], "ftp://x: not an http or https URL"),
        (
            ["destinations", "add", "http://ft.example/x", "--key-env", "HOME"],
            "not https, so its key would be sent unencrypted",
        ),
        (["destinations", "add", "http://[::1", "--key-env", "HOME"], "http://[::1: not a URL"),
        (["destinations", "add", "https://x:70000/", "--key-env", "HOME"], "https://x:70000/: not a URL"),
        (["destinations", "add", "https://u:p@x", "--key-env", "HOME"], "must contain no credentials, ? or #"),
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
def test_invalid_configuration_is_refused_in_one_sentence(settings: Settings, arguments: list[str], words: str) -> None:
    result = mailfold(*arguments, env=environment_of(settings))
    assert result.code == 1
    assert result.err.startswith("mailfold: ")
    assert words in result.err
    assert "Traceback" not in result.err


def test_adding_a_private_or_unencrypted_destination_prints_a_warning(settings: Settings) -> None:
    env = {**environment_of(settings), "THE_KEY": "k", "MAILFOLD_ALLOW_PRIVATE_DESTINATIONS": "false"}

    def add(url: str, *more: str, **changed: str) -> str:
        result = mailfold("destinations", "add", url, "--key-env", "THE_KEY", *more, env={**env, **changed})
        assert result.code == 0, result.err
        return result.err

    private = "has a private address"
    mailfold("tenants", "add", "default", env=env)
    assert private in add("https://169.254.169.254/hook")
    assert private in add("http://127.0.0.1:8080/hook")
    assert private not in add("http://127.0.0.1:8080/hook", MAILFOLD_ALLOW_PRIVATE_DESTINATIONS="true")
    assert add("https://93.184.216.34/hook") == ""
    assert "can't be resolved" in add("https://nobody.invalid/hook")
    assert "plain http" in add("http://93.184.216.34/hook", "--insecure-http")
    assert "plain http" in mailfold("destinations", "list", env=env).err
    assert "destination default/* is plain http" in mailfold("status", env=env).out


def test_role_refuses_a_database_until_it_is_migrated(settings: Settings, empty_database_url: str) -> None:
    env = environment_of(settings) | {"DATABASE_URL": empty_database_url}
    refused = mailfold("project", env=env)
    assert refused.code == 1
    assert re.fullmatch(
        r"mailfold: the database lacks 001_admin\.sql and \d+ more: run `mailfold migrate`\n", refused.err
    )
    assert "run `mailfold migrate`" in mailfold("tenants", "list", env=env).err
    run = _runner(env)
    assert run("migrate")[0] == "applied 001_admin.sql"
    assert run("migrate") == [run("migrate")[-1]]
    assert run("upgrade", "finish") == ["the feature level is 2, the newest of this version"]
    assert run("tenants", "list")


def test_no_option_takes_a_credential() -> None:
    for command in (["providers", "add"], ["destinations", "add"]):
        result = mailfold(*command, "--help", env={"COLUMNS": "160"})
        assert "--password " not in result.out
        assert "--key " not in result.out
