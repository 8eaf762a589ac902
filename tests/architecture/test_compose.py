"""docker-compose.yml and the Dockerfile, judged without a container engine: schema, commands, variables, rights."""

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.cli.main import command
from pipeline.devstack.role_counts import ROLES
from pipeline.runtime.environment import environment_variable
from pipeline.settings import Settings
from tests.architecture.repository import ROOT, text

COMPOSE: dict[str, Any] = yaml.safe_load(text("docker-compose.yml"))
SCHEMA: dict[str, Any] = json.loads(text("tests/architecture/vendor/compose-spec.json"))
OPTIONAL = {
    *("DATABASE_SESSION_URL", "DATABASE_READ_URL", "KAFKA_SASL_PASSWORD", "KAFKA_OAUTH_CLIENT_SECRET"),
    *("KAFKA_SSL_KEY_FILE", "KAFKA_SSL_KEY_PASSWORD"),
    *("MAILFOLD_SECRET", "MAILFOLD_SECRET_PREVIOUS", "MAILFOLD_SECRETS"),  # roles refuse to start without any
}
"""Settings that are secret, or are so by their names, and that not every installation has."""
ONCE = ("topics", "migrate")
"""Services that end before the roles start."""
OURS = {name: service for name, service in COMPOSE["services"].items() if service["image"] == "mailfold"}


def test_compose_file_matches_the_specification() -> None:
    jsonschema.validators.validator_for(SCHEMA)(SCHEMA).validate(COMPOSE)


def test_schema_refuses_an_invalid_compose_file() -> None:
    broken = {**COMPOSE, "services": {"gateway": {**OURS["gateway"], "comand": ["gateway"]}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validators.validator_for(SCHEMA)(SCHEMA).validate(broken)


def test_every_role_has_a_service_and_only_the_sandbox_a_profile() -> None:
    assert set(OURS) == {*ROLES, *ONCE}
    assert [name for name, service in OURS.items() if "profiles" in service] == ["sandbox"]


@pytest.mark.parametrize("name", OURS)
def test_each_command_exists(name: str) -> None:
    group: Any = command()
    arguments = OURS[name]["command"]
    while arguments:
        context = group.make_context("mailfold", list(arguments), resilient_parsing=True)
        _, group, arguments = group.resolve_command(context, list(arguments))
    assert OURS[name]["command"][0] == name
    assert group.callback is not None


@pytest.mark.parametrize("name", OURS)
def test_each_variable_is_a_setting(name: str) -> None:
    assert set(OURS[name]["environment"]) <= {environment_variable(field) for field in Settings.model_fields}


@pytest.mark.parametrize("name", OURS)
def test_the_settings_accept_what_a_service_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting, value in OURS[name]["environment"].items():
        monkeypatch.setenv(setting, _interpolated(str(value)))
    settings = Settings()
    assert settings.kafka_bootstrap == "kafka:9092"
    assert re.match(r"postgresql://mailfold:x+@postgres:5432/mailfold$", settings.database_url.get_secret_value())


def test_secrets_are_required_variables() -> None:
    for service in COMPOSE["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("SECRET|PASSWORD|DATABASE_.*URL|KEY", name):
                required = "" if name in OPTIONAL else r"\?"
                assert re.search(rf"\$\{{\w+:{required}", str(value)), f"{name} must come from outside, and be required"
                assert name not in OPTIONAL or value == f"${{{name}:-}}"


def test_dependencies_have_a_health_check_or_finish() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            wanted = "service_healthy" if "healthcheck" in services[name] else "service_completed_successfully"
            assert how["condition"] == wanted


def test_image_copies_existing_files() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text("Dockerfile"), re.MULTILINE)
    assert copied
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()


@pytest.mark.parametrize("name", OURS)
def test_our_services_are_not_root_and_write_to_their_volumes_only(name: str) -> None:
    service = OURS[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]
    assert all(volume.endswith(("/data", ":ro")) for volume in service.get("volumes", []))


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_is_limited_and_gains_no_privileges(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


@pytest.mark.parametrize("name", [name for name in OURS if name not in ONCE])
def test_every_role_has_a_health_check_of_its_own_port(name: str) -> None:
    settings = Settings()
    port = settings.sandbox_http_port if name == "sandbox" else settings.ops_port(name)
    assert f"http://127.0.0.1:{port}/healthz" in OURS[name]["healthcheck"]["test"][-1]


@pytest.mark.parametrize("name", OURS)
def test_every_service_takes_the_settings_of_secured_servers_and_their_files(name: str) -> None:
    # A name for a static member must be different for each replica.
    kafka = {environment_variable(field) for field in Settings.model_fields if field.startswith("kafka_")}
    database = {"DATABASE_URL", "DATABASE_SESSION_URL", "DATABASE_READ_URL"}
    assert kafka - {"KAFKA_GROUP_INSTANCE_ID"} | database <= set(OURS[name]["environment"])
    [tls] = [volume for volume in OURS[name]["volumes"] if volume.endswith(":/etc/mailfold/tls:ro")]
    assert (ROOT / _interpolated(tls).partition(":")[0]).is_dir()


def test_health_of_postgres_is_a_login_as_our_role() -> None:
    service = COMPOSE["services"]["postgres"]
    [mounted] = [volume for volume in service["volumes"] if volume.startswith("./deploy/compose/check-role.sh:")]
    assert service["healthcheck"]["test"] == ["CMD", "sh", mounted.split(":")[1]]


def test_images_are_pinned_by_version() -> None:
    others = [service["image"] for service in COMPOSE["services"].values() if service["image"] != "mailfold"]
    others.append(text("Dockerfile").partition("ARG PYTHON_IMAGE=")[2].split()[0])
    assert len(others) >= 3
    for image in others:
        assert re.search(r":\d+\.\d+", image), image


def test_image_ends_as_a_numbered_user_without_what_installs_packages() -> None:
    build, final = re.split(r"^FROM .*$", text("Dockerfile"), flags=re.MULTILINE)[1:]
    assert "--require-hashes" in build
    assert re.search(r"uninstall --yes .*\bsetuptools pip$", build, re.MULTILINE)
    assert "pip install" not in final
    assert "pip uninstall" in final
    assert re.findall(r"^USER (.+)$", final, re.MULTILINE) == ["10001:10001"]


def _interpolated(value: str) -> str:
    value = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    return re.sub(r"\$\{\w+:\?[^}]*\}", "x" * 40, value)
