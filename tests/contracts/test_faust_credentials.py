"""Faust's clients get the same security as ours, and nothing of it shows."""

from pathlib import Path
from typing import Any

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from pydantic import SecretStr

from pipeline.runtime.kafka.security import security_options
from pipeline.settings import Settings
from pipeline.worker.streaming.app import WorkerFlow
from pipeline.worker.streaming.credentials import broker_credentials

SECRET = "hunter2-hunter2"
LOGIN = {"kafka_sasl_username": "anna", "kafka_sasl_password": SecretStr(SECRET)}
OAUTH = {
    "kafka_sasl_mechanism": "OAUTHBEARER",
    "kafka_oauth_token_url": "https://login.example/token",
    "kafka_oauth_client_id": "mailfold",
    "kafka_oauth_client_secret": SecretStr(SECRET),
}
CASES: list[dict[str, Any]] = [
    {},
    {"kafka_security_protocol": "SSL"},
    *(
        {"kafka_security_protocol": protocol} | login
        for protocol in ("SASL_SSL", "SASL_PLAINTEXT")
        for login in (
            *(LOGIN | {"kafka_sasl_mechanism": name} for name in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
            OAUTH,
        )
    ),
]


def made(tmp_path: Path, values: dict[str, Any]) -> Settings:
    return Settings(data_dir=tmp_path, kafka_bootstrap="a:1", **values)


@pytest.mark.parametrize("values", CASES)
def test_faust_passes_on_the_options_of_our_clients(tmp_path: Path, values: dict[str, Any]) -> None:
    settings = made(tmp_path, values)
    passed = dict(credentials_to_aiokafka_auth(broker_credentials(settings)))
    assert {name: value for name, value in passed.items() if value is not None} == security_options(settings)


@pytest.mark.parametrize("values", CASES)
def test_worker_flow_has_the_credentials_and_shows_no_secret(tmp_path: Path, values: dict[str, Any]) -> None:
    conf = WorkerFlow(made(tmp_path, values), None).app.conf  # type: ignore[arg-type]
    passed = credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context)
    assert passed["security_protocol"] == values.get("kafka_security_protocol", "PLAINTEXT")
    assert SECRET not in repr(conf) + repr(conf.broker_credentials)


def test_worker_flow_is_a_static_member_where_the_settings_name_it(tmp_path: Path) -> None:
    for name in ("", "worker-0"):
        settings = made(tmp_path, {"kafka_group_instance_id": name})
        conf = WorkerFlow(settings, None).app.conf  # type: ignore[arg-type]
        assert conf.consumer_group_instance_id == (name or None)
