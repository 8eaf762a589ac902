"""The Helm chart, rendered by Helm's own library and judged without a cluster: schemas, rights, references.

Helm and Kubernetes's schemas are large, so these tests run in CI, or by their node ids (`make .venv/.release` first).
"""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from pipeline.cli.main import command
from pipeline.devstack.role_counts import ROLES
from pipeline.runtime.environment import environment_variable
from pipeline.settings import Settings
from tests.architecture.repository import ROOT, project
from tests.deploy.tools import install_release_tools

pytestmark = [pytest.mark.ci, pytest.mark.timeout(600)]

SECRET_NAME = re.compile("secret|password|metrics_key|^database_.*url$")
"""Fields of the settings that are secret, by their names."""
KUBERNETES = ("1.29", "1.33", "1.37")
"""The oldest version that the chart takes, one between, and the newest with schemas."""
NEEDED: dict[str, Any] = {
    "existingSecret": "mailfold-secrets",
    "settings": {
        "KAFKA_BOOTSTRAP": "kafka:9092",
        "MAILFOLD_PUBLIC_URL": "https://mail.example.com",
        "MAILFOLD_MAIL_DOMAIN": "mail.example.com",
        "MAILFOLD_BODY_MAX": 64000000,
    },
}
FULL: dict[str, Any] = NEEDED | {
    "image": {
        "repository": "registry.example.com/mailfold",
        "digest": f"sha256:{'0' * 64}",
        "pullSecrets": [{"name": "p"}],
    },
    "secretSettings": {"MAILFOLD_METRICS_KEY": {"name": "metrics", "key": "token"}},
    "tls": {
        "kafka": {"secret": "kafka-tls", "certificate": "tls.crt", "key": "tls.key"},
        "postgres": {"secret": "postgres-tls"},
    },
    "extraVolumes": [{"name": "more", "secret": {"secretName": "more"}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/etc/mailfold/more", "readOnly": True}],
    "gateway": {
        "settings": {"MAILFOLD_BATCH_MAX": 5000},
        "autoscaling": {"minReplicas": 3},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": ["mail.example.com"],
            "tls": [{"secretName": "tls", "hosts": ["mail.example.com"]}],
        },
        "inbound": {"enabled": True, "tlsSecret": "smtp-tls"},
        "service": {"annotations": {"a": "b"}},
    },
    "worker": {
        "persistence": {"storageClass": "fast"},
        "staticMembership": True,
        "settings": {"KAFKA_SASL_USERNAME": "worker"},
        "secretSettings": {"KAFKA_SASL_PASSWORD": "WORKER_PASSWORD"},
    },
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "mail"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "mail", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "networkPolicy": {"gatewayFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "opsFrom": [{"namespaceSelector": {}}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
}
BARE: dict[str, Any] = NEEDED | {
    "hooks": {"topics": False, "migrate": False},
    "gateway": {
        "autoscaling": {"enabled": False},
        "podDisruptionBudget": None,
        "spool": {"existingClaim": "spool"},
        "inbound": {"enabled": True, "service": {"type": "ClusterIP"}},
    },
    "topologySpread": False,
    "networkPolicy": {"enabled": False},
}
VARIANTS: dict[str, dict[str, Any]] = {"needed": NEEDED, "full": FULL, "bare": BARE}
SERVED = tuple(role for role in ROLES if role != "sandbox")


@pytest.fixture(scope="session", autouse=True)
def release_tools() -> None:
    install_release_tools()


@cache
def _rendered(values: str) -> dict[str, Any]:
    request = {"values": json.loads(values), "kubernetes": KUBERNETES}
    command_line = [str(ROOT / ".venv/release/bin/python"), str(ROOT / "tests/deploy/chart.py")]
    done = subprocess.run(command_line, input=json.dumps(request), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def rendered(values: dict[str, Any]) -> dict[str, Any]:
    return _rendered(json.dumps(values))


def objects(values: dict[str, Any], kind: str = "") -> list[dict[str, Any]]:
    answer = rendered(values)
    assert answer["error"] == ""
    return [each for each in answer["objects"] if each["kind"] == kind or not kind]


def pods(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield the name, the labels and the specification of each pod."""
    for each in objects(values):
        if template := each["spec"].get("template") if "spec" in each else None:
            yield each["metadata"]["name"], template["metadata"]["labels"], template["spec"]


variants = pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)


@variants
def test_every_object_fits_the_strict_schemas_of_kubernetes(values: dict[str, Any]) -> None:
    assert rendered(values)["error"] == ""
    assert rendered(values)["problems"] == []


def test_an_unknown_field_and_a_wrong_type_are_found() -> None:
    wrong = FULL | {"podLabels": {"team": "mail"}, "affinity": {"nodeAfinity": {}}}
    assert any("nodeAfinity" in problem for problem in rendered(wrong)["problems"])


def test_chart_makes_each_role_and_nothing_that_holds_data() -> None:
    kinds = {(each["kind"], each["metadata"]["name"]) for each in objects(FULL)}
    assert {("Deployment", f"mailfold-{role}") for role in SERVED if role != "worker"} <= kinds
    assert {
        *(("StatefulSet", "mailfold-worker"), ("HorizontalPodAutoscaler", "mailfold-gateway")),
        *(("PodDisruptionBudget", "mailfold-gateway"), ("Service", "mailfold"), ("Service", "mailfold-inbound")),
        *(("Ingress", "mailfold"), ("Job", "mailfold-migrate"), ("Job", "mailfold-topics")),
        *(("NetworkPolicy", "mailfold-gateway"), ("ServiceMonitor", "mailfold")),
    } <= kinds
    assert not {"Secret", "ConfigMap", "Role", "ClusterRole"} & {kind for kind, _ in kinds}
    images = {container["image"] for _, _, pod in pods(FULL) for container in pod["containers"]}
    assert images == {f"registry.example.com/mailfold@sha256:{'0' * 64}"}


def test_metrics_carry_the_role_by_which_alerts_and_dashboard_tell_them_apart() -> None:
    [monitor] = objects(FULL, "ServiceMonitor")
    [endpoint] = monitor["spec"]["endpoints"]
    assert {rule["targetLabel"]: rule["sourceLabels"] for rule in endpoint["relabelings"]} == {
        "role": ["__meta_kubernetes_pod_label_app_kubernetes_io_component"]
    }


@variants
def test_no_pod_is_root_or_writes_outside_its_volumes(values: dict[str, Any]) -> None:
    for name, _, pod in pods(values):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
            assert {"/data", "/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}


@variants
def test_every_variable_is_a_setting_with_a_valid_value_and_secrets_come_by_reference(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _, _, pod in pods(values):
        [container] = pod["containers"]
        env = {each["name"]: each for each in container["env"]}
        assert len(env) == len(container["env"]), "a name twice"
        assert set(env) <= {environment_variable(field) for field in Settings.model_fields}
        assert {
            name for name in env if re.search("SECRET|PASSWORD|METRICS_KEY|URL", name) and "value" in env[name]
        } <= {"MAILFOLD_PUBLIC_URL", "KAFKA_OAUTH_TOKEN_URL"}
        assert env["MAILFOLD_SECRET"]["valueFrom"]["secretKeyRef"]["name"] == "mailfold-secrets"
        with monkeypatch.context() as patched:
            for name, each in env.items():
                patched.setenv(name, each.get("value", "x" * 40))
            settings = Settings()
        assert settings.body_max == 64_000_000
        assert settings.kafka_bootstrap == "kafka:9092"


def test_settings_that_the_secret_may_have_are_optional_and_a_roles_own_win() -> None:
    fields = {environment_variable(field) for field in Settings.model_fields if SECRET_NAME.search(field)}
    for name, _, pod in pods(FULL):
        env = {each["name"]: each for each in pod["containers"][0]["env"]}
        assert fields - {"DATABASE_URL"} <= set(env), f"{name} can't be given each secret setting"
        for setting in ("DATABASE_SESSION_URL", "DATABASE_READ_URL", "KAFKA_OAUTH_CLIENT_SECRET"):
            source = env[setting]["valueFrom"]["secretKeyRef"]
            assert source == {"name": "mailfold-secrets", "key": setting, "optional": True}
    env = {name: pod["containers"][0]["env"] for name, _, pod in pods(FULL)}
    worker = {each["name"]: each for each in env["mailfold-worker"]}
    assert worker["KAFKA_SASL_USERNAME"] == {"name": "KAFKA_SASL_USERNAME", "value": "worker"}
    source = worker["KAFKA_SASL_PASSWORD"]["valueFrom"]["secretKeyRef"]
    assert source == {"name": "mailfold-secrets", "key": "WORKER_PASSWORD"}
    [emit] = [each for each in env["mailfold-emit"] if each["name"] == "KAFKA_SASL_USERNAME"]
    assert emit["valueFrom"]["secretKeyRef"]["optional"] is True


def test_files_for_tls_are_mounted_where_settings_and_urls_name_them() -> None:
    for name, _, pod in pods(FULL):
        [container] = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for server in ("kafka", "postgres"):
            volume = volumes[mounts[f"/etc/mailfold/{server}"]]
            assert volume["secret"] == {"secretName": f"{server}-tls", "defaultMode": 0o440}, name
        env = {each["name"]: each.get("value") for each in container["env"]}
        assert [env[f"KAFKA_SSL_{kind}_FILE"] for kind in ("CA", "CERTIFICATE", "KEY")] == [
            f"/etc/mailfold/kafka/{file}" for file in ("ca.crt", "tls.crt", "tls.key")
        ]
    for _, _, pod in pods(NEEDED):
        assert not {"kafka-tls", "postgres-tls"} & {volume["name"] for volume in pod["volumes"]}
        assert not [each for each in pod["containers"][0]["env"] if each["name"].startswith("KAFKA_SSL_C")]


@variants
def test_each_command_exists(values: dict[str, Any]) -> None:
    for _, _, pod in pods(values):
        group: Any = command()
        arguments = list(pod["containers"][0]["args"])
        while arguments:
            _, group, arguments = group.resolve_command(
                group.make_context("m", arguments, resilient_parsing=True), arguments
            )
        assert group.callback is not None


@variants
def test_each_role_is_probed_on_the_port_that_it_serves(values: dict[str, Any]) -> None:
    for name, _, pod in pods(values):
        [container] = pod["containers"]
        [role, *rest] = container["args"]
        if rest or role == "migrate":
            continue
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        env = {each["name"]: each.get("value") for each in container["env"]}
        assert str(ports["ops"]) == env[f"MAILFOLD_OPS_PORT_{role.upper()}"], name
        assert env["MAILFOLD_OPS_HOST"] == "0.0.0.0"
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "ops"}
        assert container["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "ops"}, "a role waits for servers"
        # Gateways share Kafka and Postgres: an outage must not take all of them out, with the opens that they record.
        ready = ("/healthz", "http") if role == "gateway" else ("/readyz", "ops")
        assert container["readinessProbe"]["httpGet"] == dict(zip(("path", "port"), ready, strict=True))
        # Longer than the 10 seconds that a role may take to end, with the gateway's 5 before.
        assert pod["terminationGracePeriodSeconds"] >= 20


@variants
def test_selectors_match_pods_and_policies_cover_each_role(values: dict[str, Any]) -> None:
    labels = [found for _, found, _ in pods(values)]
    selectors = [
        each["spec"].get("selector", {}).get("matchLabels") or each["spec"].get("podSelector", {}).get("matchLabels")
        for each in objects(values)
        if each["kind"] in {"Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"}
    ] + [each["spec"]["selector"] for each in objects(values, "Service")]
    assert selectors
    for selector in selectors:
        assert any(selector.items() <= found.items() for found in labels), selector
    if values is not BARE:
        covered = {
            each["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
            for each in objects(values, "NetworkPolicy")
        }
        assert covered == set(SERVED)


def test_hooks_refer_to_nothing_that_the_release_makes() -> None:
    made = {
        each["metadata"]["name"]
        for each in objects(FULL)
        if "helm.sh/hook" not in each["metadata"].get("annotations", {})
    }
    for job in objects(FULL, "Job"):
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        pod = job["spec"]["template"]["spec"]
        assert "serviceAccountName" not in pod
        assert not made & {volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]}
    weights = {
        job["metadata"]["name"]: int(job["metadata"]["annotations"]["helm.sh/hook-weight"])
        for job in objects(FULL, "Job")
    }
    assert weights["mailfold-topics"] < weights["mailfold-migrate"]


def test_only_the_worker_has_a_claim_of_its_own() -> None:
    [worker] = objects(NEEDED, "StatefulSet")
    [claim] = worker["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    assert worker["spec"]["serviceName"] in {each["metadata"]["name"] for each in objects(NEEDED, "Service")}
    assert "data" not in {volume["name"] for volume in worker["spec"]["template"]["spec"]["volumes"]}


def test_autoscaled_gateway_has_no_number_of_its_own() -> None:
    replicas = {each["metadata"]["name"]: each["spec"].get("replicas") for each in objects(NEEDED, "Deployment")}
    assert replicas["mailfold-gateway"] is None
    assert replicas["mailfold-emit"] == 2
    fixed = {each["metadata"]["name"]: each["spec"].get("replicas") for each in objects(BARE, "Deployment")}
    assert fixed["mailfold-gateway"] == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"existingSecret": ""}, "existingSecret"),
        ({"settings": {}}, "KAFKA_BOOTSTRAP"),
        ({"settings": {**NEEDED["settings"], "MAILFOLD_SECRET": "in plain sight"}}, "MAILFOLD_SECRET"),
        ({"settings": {**NEEDED["settings"], "DATABASE_URL": "postgresql://me:pw@db/x"}}, "DATABASE_URL"),
        ({"settings": {**NEEDED["settings"], "BODY_MAX": "1"}}, "BODY_MAX"),
        ({"gatway": {}}, "gatway"),
        ({"gateway": {"ingress": {"enabled": True}}}, "hosts"),
        ({"image": {"digest": "sha256:abc"}}, "digest"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_values_are_refused_with_their_name(wrong: dict[str, Any], told: str) -> None:
    assert told in rendered(NEEDED | wrong)["error"]


def test_chart_has_the_version_of_the_program() -> None:
    chart = (ROOT / "deploy/helm/mailfold/Chart.yaml").read_text()
    version = project()["project"]["version"]
    assert f"\nversion: {version}\n" in chart
    assert f'\nappVersion: "{version}"\n' in chart
