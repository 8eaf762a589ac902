"""Check the alerts and the dashboard: every metric exists, every alert has a section that says what to do."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.devstack.role_counts import ROLES
from pipeline.settings import Settings
from tests.architecture.reference.metrics import roles_of_metrics
from tests.architecture.repository import ROOT, section, text

FOLDER = ROOT / "deploy" / "observability"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
SCRAPES: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
RUNBOOKS = text("docs/how-to/alerts.md")
OF_PROMETHEUS_AND_PYTHON = {"up", "process_resident_memory_bytes", "process_cpu_seconds_total"}
PROMTOOL = shutil.which("promtool", path=f"{ROOT}/.cache/prometheus/usr/bin:{os.environ.get('PATH', '')}")
"""Of Debian's package `prometheus`, which `.ci/promtool` unpacks."""


@dataclass(frozen=True)
class AlertCase:
    """Samples, one a minute in promtool's notation, and the minutes at which an alert is quiet and fires."""

    series: dict[str, str]
    quiet_at: int
    fires_at: int

    def promtool_test(self, alert: str) -> dict[str, Any]:
        expression = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
        return {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in self.series.items()],
            "promql_expr_test": [
                {"expr": expression, "eval_time": f"{self.quiet_at}m", "exp_samples": []},
                {
                    "expr": expression,
                    "eval_time": f"{self.fires_at}m",
                    "exp_samples": [{"labels": "{}", "value": 1}],
                },
            ],
        }


BY_READER = 'reader="project",topic="email-changes"'
CASES = {
    "MailfoldRoleDown": AlertCase({'up{job="mailfold",role="emit",instance="a"}': "1+0x9 0+0x9"}, 10, 13),
    "MailfoldNotReady": AlertCase({'mailfold_ready{role="emit",instance="a"}': "1+0x9 0+0x30"}, 18, 22),
    "MailfoldPostgresDown": AlertCase({'mailfold_postgres_up{instance="a"}': "1+0x9 0+0x9"}, 10, 13),
    "MailfoldAppendsUnconfirmed": AlertCase(
        {'mailfold_appends_total{result="unconfirmed",topic="send-requests"}': "0+0x9 0+5x20"}, 12, 20
    ),
    "MailfoldHttpErrors": AlertCase(
        {
            'mailfold_http_requests_total{surface="batch",status="200"}': "0+90x40",
            'mailfold_http_requests_total{surface="batch",status="503"}': "0+0x9 0+10x30",
        },
        9,
        25,
    ),
    "MailfoldLogLost": AlertCase({'mailfold_log_lost{reader="dispatch"}': "0+0x9 1+0x9"}, 9, 12),
    "MailfoldProjectionHalted": AlertCase({'mailfold_projection_halted{partition="3"}': "0+0x9 1+0x9"}, 9, 12),
    "MailfoldCompactedTopicHalted": AlertCase(
        {'mailfold_compacted_topic_halted{topic="templates"}': "0+0x9 1+0x9"}, 9, 12
    ),
    "MailfoldEmailsUnaccounted": AlertCase(
        {
            'mailfold_audit_unaccounted_emails{instance="a"}': "0+0x60",
            'mailfold_audit_unaccounted_emails{instance="b"}': "0+0x9 1+0x50",
        },
        38,
        42,
    ),
    "MailfoldRecordsWait": AlertCase({f"mailfold_oldest_unprocessed_seconds{{{BY_READER}}}": "0+0x9 0+60x20"}, 19, 23),
    "MailfoldLag": AlertCase(
        {
            f'mailfold_lag_records{{{BY_READER},partition="0"}}': "0+0x9 30000+0x30",
            f'mailfold_lag_records{{{BY_READER},partition="1"}}': "0+0x9 30000+0x30",
        },
        20,
        27,
    ),
    "MailfoldRecoveryLong": AlertCase({'mailfold_recovery_remaining_records{instance="a"}': "0+0x9 5000+0x40"}, 35, 42),
    "MailfoldRebalancing": AlertCase(
        {'mailfold_rebalances_total{role="worker",instance="a"}': "0+0x40 0+1x40"}, 40, 75
    ),
    "MailfoldConversionsLate": AlertCase({'mailfold_oldest_job_seconds{queue="emit"}': "10+0x9 3700+60x20"}, 12, 18),
    "MailfoldConversionsSlow": AlertCase(
        {
            'mailfold_stage_seconds_bucket{stage="conversion",le="300"}': "0+10x30 310+0x40",
            'mailfold_stage_seconds_bucket{stage="conversion",le="900"}': "0+10x70",
            'mailfold_stage_seconds_bucket{stage="conversion",le="+Inf"}': "0+10x70",
        },
        30,
        60,
    ),
    "MailfoldLaneStopped": AlertCase({'mailfold_lanes_stopped{queue="emit",why="paused"}': "0+0x9 2+0x30"}, 20, 27),
    "MailfoldJobsNeedDecision": AlertCase(
        {
            'mailfold_jobs{queue="emit",state="pending"}': "100+0x30",
            'mailfold_jobs{queue="emit",state="dead"}': "0+0x9 1+0x20",
        },
        12,
        17,
    ),
    "MailfoldEventsParked": AlertCase({"mailfold_oldest_parked_seconds": "100+0x9 86500+60x30"}, 20, 27),
    "MailfoldUnknownEvents": AlertCase({'mailfold_unknown_events{kind="ses"}': "0+0x9 200+0x90"}, 60, 75),
    "MailfoldSignaturesInvalid": AlertCase({'mailfold_forged_total{surface="webhook"}': "0+0x9 0+60x50"}, 15, 40),
    "MailfoldSpoolLost": AlertCase({'mailfold_spool_lost_total{instance="a"}': "0+0x9 1+0x9"}, 9, 12),
    "MailfoldSpoolFills": AlertCase({'mailfold_spool_events{instance="a"}': "0+0x9 20000+0x20"}, 15, 22),
    "MailfoldEventLoopBlocked": AlertCase(
        {'mailfold_event_loop_stalls_total{role="worker",instance="a"}': "0+0x9 0+30x40"}, 12, 35
    ),
    "MailfoldGaugesUnread": AlertCase(
        {'mailfold_refresh_failures_total{role="project",instance="a"}': "0+0x9 0+4x30"}, 10, 25
    ),
}


def known_labels() -> dict[str, set[str]]:
    """Return the labels of each series, as queries name it."""
    labels: dict[str, set[str]] = {}
    for name, kind, listed, _ in roles_of_metrics():
        own = set(re.findall(r"\w+", listed))
        names = [f"{name}{end}" for end in ("_bucket", "_sum", "_count")] if kind == "histogram" else [name]
        labels |= {each: own | ({"le"} if each.endswith("_bucket") else set()) for each in names}
    return labels


def expressions() -> Iterator[tuple[str, str]]:
    yield from ((rule["alert"], rule["expr"]) for rule in RULES)
    for panel in DASHBOARD["panels"]:
        yield from ((f"panel {panel['title']}", target["expr"]) for target in panel.get("targets", ()))


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_each_metric_and_label_in_a_query_exists(place: str, expression: str) -> None:
    labels = known_labels()
    named = set(re.findall(r"\b(?:mailfold|process)_\w+|\bup\b", expression))
    assert named, f"{place} asks for no metric"
    assert named - labels.keys() <= OF_PROMETHEUS_AND_PYTHON
    set_by_the_scrape = {"role", "instance", "job"}
    usable = set_by_the_scrape.union(*(labels.get(name, set()) for name in named))
    grouped = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in re.findall(r"\w+", group)}
    selected = set(re.findall(r"(\w+)(?:=~|!=|=)\"", expression))
    assert grouped | selected <= usable


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_says_what_it_means_where_to_look_and_what_to_do(rule: dict[str, Any]) -> None:
    told = section(RUNBOOKS, rule["alert"])
    for opening in ("**It means:**", "**Look:**", "**Do:**"):
        assert opening in told
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"]["summary"]


def test_each_section_belongs_to_an_alert() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOKS, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_every_role_is_scraped_at_its_default_port() -> None:
    [job] = SCRAPES["scrape_configs"]
    found = {scraped["labels"]["role"]: scraped["targets"] for scraped in job["static_configs"]}
    assert found == {role: [f"{role}:{Settings().ops_port(role)}"] for role in ROLES if role != "sandbox"}
    assert job["job_name"] == "mailfold"


def test_compose_profile_runs_both_with_files_that_are_there() -> None:
    compose = yaml.safe_load((FOLDER / "compose.yml").read_text())
    schema = json.loads(text("tests/architecture/vendor/compose-spec.json"))
    jsonschema.validators.validator_for(schema)(schema).validate(compose)
    including = yaml.safe_load(text("docker-compose.yml"))
    assert including["include"] == ["deploy/observability/compose.yml"]
    assert not including["services"].keys() & compose["services"].keys()
    for service in compose["services"].values():
        assert service["profiles"] == ["observability"]
        assert re.fullmatch(r"[\w/]+:v?[\d.]+", service["image"]), "pinned by version"
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), "neither asks for a password"
        files = [volume.partition(":")[0] for volume in service["volumes"] if volume.startswith("./")]
        assert [name for name in files if not (FOLDER / name).is_file()] == []
    provided = yaml.safe_load((FOLDER / "grafana" / "datasource.yml").read_text())
    assert [source["type"] for source in provided["datasources"]] == ["prometheus"]


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not there: .ci/promtool unpacks it")
def test_each_alert_fires_when_it_must_and_only_then(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    assert set(CASES) == {rule["alert"] for rule in RULES}
    tests = [case.promtool_test(alert) for alert, case in CASES.items()]
    (tmp_path / "cases.yml").write_text(yaml.safe_dump({"rule_files": [str(FOLDER / "alerts.yml")], "tests": tests}))
    for command in (
        ["check", "config", str(FOLDER / "prometheus.yml")],
        ["test", "rules", str(tmp_path / "cases.yml")],
    ):
        done = subprocess.run([PROMTOOL, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
