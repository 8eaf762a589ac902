"""Test the parts of the supervisor that need no server: back-off, data folder, process ids, child processes."""

import asyncio
import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from pipeline.devstack import supervisor
from pipeline.devstack.servers import jars, kafka, postgres
from pipeline.devstack.servers.data_dir import DataDir, ResourceInUse, find_free_port, is_port_taken
from pipeline.devstack.servers.orphans import PidFiles
from pipeline.devstack.servers.process import ChildProcess, Program, StartupFailed, spawn
from pipeline.devstack.servers.restarter import HEALTHY_AFTER_S, Backoff, Restarter
from pipeline.devstack.servers.threads import run_in_background
from pipeline.runtime.environment import environment_of, load_settings
from pipeline.settings import Settings
from tests.support.command import gone

PYTHON = sys.executable


def sleeper(folder: Path, code: str = "import time; time.sleep(600)", name: str = "sleeper") -> Program:
    return Program(name, (PYTHON, "-c", code), folder / f"{name}.log")


def test_restart_delay_doubles_from_200_ms_to_10_s() -> None:
    backoff = Backoff()
    assert [backoff.after(0.1) for _ in range(8)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])


def test_restart_delay_is_reset_after_a_healthy_run() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after(0)
    assert backoff.after(HEALTHY_AFTER_S) == pytest.approx(0.2)
    assert backoff.after(0) == pytest.approx(0.4)


def test_data_dir_can_be_locked_once_until_it_is_unlocked(tmp_path: Path) -> None:
    first, second = DataDir(tmp_path), DataDir(tmp_path)
    first.lock()
    with pytest.raises(ResourceInUse, match=f"already in use by process {os.getpid()}"):
        second.lock()
    first.unlock()
    second.lock()


def test_data_dir_that_is_a_file_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceInUse, match=r"file: not a folder; set MAILFOLD_DATA_DIR"):
        DataDir(tmp_path / "file").lock()


def test_port_stays_the_same_and_is_refused_while_in_use(tmp_path: Path) -> None:
    port = DataDir(tmp_path).port("kafka")
    assert DataDir(tmp_path).port("kafka") == port
    assert DataDir(tmp_path).port("postgres") != port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert is_port_taken("127.0.0.1", port)
        with pytest.raises(ResourceInUse, match=f"kafka's port {port} is taken by another program"):
            DataDir(tmp_path).port("kafka")


def test_secret_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    secret = DataDir(tmp_path).secret("secret")
    assert len(secret) >= 32
    assert DataDir(tmp_path).secret("secret") == secret
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_settings_written_to_an_environment_are_read_back_unchanged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, port=1, dispatch_schedule=(0.5, 2), allow_private_destinations=True)
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_taken_ops_port_is_replaced_unless_an_operator_chose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Settings().ops_port_worker
    monkeypatch.setattr(supervisor, "is_port_taken", lambda _host, port: port == taken)
    data_dir = DataDir(tmp_path)
    ports = [supervisor.complete_settings(Settings(ops_port_emit=0), data_dir) for _ in range(2)]
    assert ports[0].ops_port_worker != taken
    assert [each.ops_port_worker for each in ports] == [data_dir.ports()["ops_port_worker"]] * 2
    assert [each.ops_port_emit for each in ports] == [data_dir.ports()["ops_port_emit"]] * 2
    assert ports[0].ops_port_gateway == Settings().ops_port_gateway
    chosen = supervisor.complete_settings(Settings(ops_port_worker=taken), data_dir)
    assert chosen.ops_port_worker == taken, "the start says that it is taken"
    assert supervisor.complete_settings(Settings(ops_host="", ops_port_emit=0), data_dir).ops_port_emit == 0


async def test_orphans_are_ended_and_processes_with_reused_ids_are_not(tmp_path: Path) -> None:
    orphan, other = spawn(sleeper(tmp_path)), spawn(sleeper(tmp_path, name="other"))
    try:
        pids = PidFiles(tmp_path / "pids")
        pids.remember("orphan", orphan.pid)
        (tmp_path / "pids" / "reused").write_text(f"{other.pid} {psutil.Process(other.pid).create_time() - 3600}")
        (tmp_path / "pids" / "torn").write_text("12")
        assert await asyncio.to_thread(pids.end_orphans, {"orphan": signal.SIGTERM}) == ["orphan"]
        assert not orphan.is_running()
        assert other.is_running(), "its id was reused, so it is not the process of the file"
        assert list((tmp_path / "pids").iterdir()) == []
    finally:
        for child in (orphan, other):
            child.stop(signal.SIGKILL)


def test_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from pipeline.devstack.servers.process import Program, spawn
        argv = ({PYTHON!r}, "-c", "import time; print('here', flush=True); time.sleep(600)")
        child = spawn(Program("child", argv, Path({str(tmp_path)!r}) / "log"))
        while "here" not in child.tail():
            time.sleep(0.05)
        print(child.pid, flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([PYTHON, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
    asyncio.run(gone([child]))


async def test_dead_child_is_reported_with_its_log_and_restarted(tmp_path: Path) -> None:
    lines: list[str] = []
    restarter = Restarter(sleeper(tmp_path, "raise SystemExit('no bread')"), PidFiles(tmp_path / "pids"), lines.append)
    restarter.start_watching()
    async with asyncio.timeout(20):
        while restarter.restarts < 2:
            await asyncio.sleep(0.05)
    await restarter.stop(5)
    assert "sleeper ended with exit code 1; it starts again in 0.2 s." in lines[0]
    assert "no bread" in lines[1]
    assert list((tmp_path / "pids").iterdir()) == []


async def test_child_that_ignores_sigterm_or_is_suspended_is_stopped(tmp_path: Path) -> None:
    ignore_sigterm = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    for code, number in (
        (ignore_sigterm, signal.SIGCONT),
        ("print('up', flush=True); import time; time.sleep(600)", signal.SIGSTOP),
    ):
        child = spawn(sleeper(tmp_path, code))
        await _wait_for_output(child, "up")
        child.process.send_signal(number)
        await child.stop_async(0.3)
        assert not child.is_running()
        (tmp_path / "sleeper.log").unlink()


def test_large_log_is_rotated_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.devstack.servers.process.LOG_MAX_BYTES", 10)
    (tmp_path / "sleeper.log").write_text("0123456789 and more")
    spawn(sleeper(tmp_path, "print('new')")).process.wait()
    assert (tmp_path / "sleeper.log").read_text() == "new\n"
    assert (tmp_path / "sleeper.log.1").read_text() == "0123456789 and more"


async def test_large_log_of_a_running_child_is_rotated_and_the_child_writes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.devstack.servers.process.LOG_MAX_BYTES", 10)
    monkeypatch.setattr("pipeline.devstack.servers.restarter.LOG_CHECK_INTERVAL_S", 0.01)
    log, earlier = tmp_path / "writer.log", tmp_path / "writer.log.1"
    code = f"""
        import os, pathlib, time
        print("much at first", flush=True)
        while not pathlib.Path({str(earlier)!r}).exists() or pathlib.Path({str(log)!r}).stat().st_size:
            time.sleep(0.01)
        print("more", flush=True)
        time.sleep(600)
        """
    restarter = Restarter(
        sleeper(tmp_path, textwrap.dedent(code), "writer"), PidFiles(tmp_path / "pids"), lambda _: None
    )
    restarter.start_watching()
    try:
        async with asyncio.timeout(20):
            while log.read_text() != "more\n":
                await asyncio.sleep(0.01)
        assert earlier.read_text() == "much at first\n"
        assert stat.S_IMODE(earlier.stat().st_mode) == 0o600
    finally:
        await restarter.stop(1)


async def test_background_work_returns_raises_and_can_be_abandoned() -> None:
    assert await run_in_background(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await run_in_background(lambda: 1 / 0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await run_in_background(find_free_port)


def test_mismatched_jars_are_named(tmp_path: Path) -> None:
    for name in ("a.jar", "b.jar", "extra.jar"):
        (tmp_path / name).write_text(name)
    pins = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a.jar", "missing.jar")} | {"b.jar": "0"}
    assert jars.mismatched_jars(tmp_path.iterdir(), pins) == ["b.jar", "extra.jar", "missing.jar"]


def test_pinned_kafka_version_is_the_resolved_one() -> None:
    assert f"kafka-server-{jars.KAFKA_VERSION}.jar" in jars.fetch_classpath()


def test_failed_server_start_reports_the_end_of_the_log(stack_folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        with pytest.raises(StartupFailed, match=r"(?s)Postgres did not answer.*could not bind"):
            postgres.start(stack_folder, other.getsockname()[1])


def test_cluster_id_never_begins_with_a_dash() -> None:
    assert kafka.cluster_id(b"\xf8" * 16).startswith("_")


def test_interrupted_format_is_repeated(tmp_path: Path) -> None:
    broken = tmp_path / "kafka" / "data.new"
    broken.mkdir(parents=True)
    (broken / "meta.properties").write_text("half a lin")
    kafka.prepare_program(tmp_path / "kafka", find_free_port(), find_free_port())
    assert (tmp_path / "kafka" / "data" / "meta.properties").read_text().count("cluster.id") == 1


async def _wait_for_output(child: ChildProcess, text: str) -> None:
    async with asyncio.timeout(20):
        while text not in child.tail():
            await asyncio.sleep(0.05)
