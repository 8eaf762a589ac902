"""What `mailfold doctor` makes of what it sees, and how it runs its checks."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from pipeline.errors import LogUnavailable
from pipeline.operations.doctor import finding as findings
from pipeline.operations.doctor import host
from pipeline.operations.doctor.finding import DoctorCheck, DoctorFinding, examine, fail, ok
from pipeline.operations.doctor.kafka import find_replica_problems
from pipeline.operations.doctor.postgres import clock_finding, schema_finding
from pipeline.runtime.kafka.topic_admin import BrokerAddress, ClusterDescription, PartitionReplicas
from pipeline.runtime.secrets.secret_ring import NamedSecret
from pipeline.settings import Settings
from projections.migrate import Migration, SchemaDifference

BROKERS = tuple(BrokerAddress(node, "b", 9092) for node in (1, 2, 3))
RANDOM = "kL9x-2Tz_8qWnV4rYbEo6sHdGfJcMpAu1iQ3"


async def test_checks_do_not_keep_each_other_from_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "CHECK_TIMEOUT_S", 0.05)

    async def answers(_: Settings) -> AsyncIterator[DoctorFinding]:
        yield ok("answers")

    async def hangs(_: Settings) -> AsyncIterator[DoctorFinding]:
        yield ok("so far")
        await asyncio.Event().wait()

    async def is_away(_: Settings) -> AsyncIterator[DoctorFinding]:
        yield ok("begins")
        raise LogUnavailable("Kafka does not answer")

    async def is_broken(_: Settings) -> AsyncIterator[DoctorFinding]:
        yield ok("begins")
        raise KeyError("topics")

    checks: dict[str, DoctorCheck] = {"hangs": hangs, "away": is_away, "broken": is_broken, "answers": answers}
    report = await examine(Settings(), checks)
    assert [(row.area, row.verdict, row.text) for row in report.findings] == [
        ("hangs", "ok", "so far"),
        ("hangs", "fail", "no answer within 0 s"),
        ("away", "ok", "begins"),
        ("away", "fail", "Kafka does not answer"),
        ("broken", "ok", "begins"),
        ("broken", "fail", "the check itself failed: KeyError: 'topics'"),
        ("answers", "ok", "answers"),
    ]
    assert report.has("fail")
    assert not report.has("warn")


def replica_findings(*in_sync: tuple[int, ...], leader: int = 1, factor: int = 3) -> list[str]:
    replicas = tuple(range(1, factor + 1))
    partitions = tuple(PartitionReplicas("t", number, leader, replicas, nodes) for number, nodes in enumerate(in_sync))
    settings = Settings(replication_factor=factor)
    found = find_replica_problems(ClusterDescription(BROKERS, partitions), settings)
    return [f"{row.verdict} {row.text}" for row in found]


def test_replicas_are_judged_by_partition() -> None:
    assert replica_findings((1, 2, 3), (2, 1, 3)) == ["ok all replicas of 2 partitions are in sync"]
    assert replica_findings((1, 2, 3), (1, 2)) == ["warn not all replicas in sync: t/1"]
    assert replica_findings((1,), (1, 2, 3)) == [
        "fail fewer than 2 replicas in sync, so that no write is confirmed: t/0"
    ]
    assert replica_findings((), leader=-1) == ["fail no leader: t/0"]
    assert replica_findings((1,), factor=1)[1].startswith("warn topics have one replica")
    assert replica_findings(*[(1, 2)] * 5) == ["warn not all replicas in sync: t/0, t/1, t/2 and 2 more"]


@pytest.mark.parametrize(
    ("skew_s", "round_trip_s", "verdict"), [(0.2, 0.01, "ok"), (1.4, 1.0, "ok"), (1.4, 0.1, "fail"), (-30, 0.1, "fail")]
)
def test_clock_is_judged_as_far_as_the_round_trip_tells(skew_s: float, round_trip_s: float, verdict: str) -> None:
    finding = clock_finding(skew_s, round_trip_s)
    assert finding.verdict == verdict
    assert ("behind" in finding.text) == (skew_s < 0)


@pytest.mark.parametrize(("secret", "verdict"), [("a" * 40, "warn"), (RANDOM, "ok")])
def test_secret_is_judged_by_variety(secret: str, verdict: str) -> None:
    finding = host.secret_finding(NamedSecret("2", secret))
    assert finding.verdict == verdict
    assert secret not in finding.text


@pytest.mark.parametrize(
    ("secret", "secrets", "verdicts"),
    [
        ("", "", ["fail"]),
        (RANDOM[:31], "", ["fail"]),
        (RANDOM, "", ["ok"]),
        ("", f"addresses:{RANDOM} 2:{'a' * 40} 1:{RANDOM}", ["warn", "ok"]),
        (RANDOM, f"1:{RANDOM}", ["fail"]),
    ],
)
def test_each_secret_is_judged_in_either_form(secret: str, secrets: str, verdicts: list[str]) -> None:
    settings = Settings(secret=SecretStr(secret), secrets=SecretStr(secrets))
    findings = list(host._check_secrets(settings))
    assert [finding.verdict for finding in findings] == verdicts
    assert not any(RANDOM[:31] in f"{finding}" for finding in findings)


@pytest.mark.parametrize(
    ("free", "total", "verdict"),
    [
        (500_000_000, 10**12, "fail"),
        (4_000_000_000, 10**12, "warn"),
        (4_000_000_000, 10**10, "ok"),
        (10**11, 10**12, "ok"),
    ],
)
def test_disk_is_judged_by_free_bytes_and_share(
    free: int, total: int, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "disk_usage", lambda _: SimpleNamespace(free=free, total=total))
    assert host.disk_finding(tmp_path / "not" / "there").verdict == verdict


FIRST, CONTRACT = Migration("001.sql", ""), Migration("002.sql", "-- migrate: contract\n")


@pytest.mark.parametrize(
    ("difference", "verdict", "todo"),
    [
        (SchemaDifference((FIRST,), is_empty=True), "fail", "mailfold migrate"),
        (SchemaDifference((FIRST,), applied=("000.sql",)), "fail", "mailfold migrate"),
        (SchemaDifference((CONTRACT,), applied=("001.sql",)), "warn", "upgrade finish"),
        (SchemaDifference((), applied=("001.sql",), unknown=("003.sql",)), "warn", "use that version"),
        (SchemaDifference((), ("001.sql",), ("003.sql",), is_too_new=True), "fail", "newer version"),
        (SchemaDifference((), applied=("001.sql",)), "ok", ""),
    ],
)
def test_schema_is_judged_by_what_this_program_can_do_with_it(
    difference: SchemaDifference, verdict: str, todo: str
) -> None:
    finding = schema_finding(difference)
    assert finding.verdict == verdict
    assert todo in finding.todo


@pytest.mark.parametrize(
    ("url", "verdict"),
    [("http://127.0.0.1:8025", "skip"), ("http://m.example.com", "warn"), ("https://m.example.com", "ok")],
)
def test_public_url_needs_https_where_the_world_sees_it(url: str, verdict: str) -> None:
    assert host.public_url_finding(url).verdict == verdict


async def test_waiting_opens_in_the_spool_are_a_warning(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    settings: Any = Settings(data_dir=tmp_path)

    async def spool_verdicts() -> list[str]:
        return [row.verdict async for row in host.check_host(settings) if "spool" in row.text]

    assert await spool_verdicts() == ["ok"]
    (spool / "1.events").write_bytes(b"x")
    assert await spool_verdicts() == ["warn"]


def test_finding_that_fails_may_have_nothing_to_do() -> None:
    assert fail("broken").todo == ""
