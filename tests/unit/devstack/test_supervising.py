"""The pieces of the supervisor that need no server: back-off, folder, process ids, children."""

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

from pipeline.devstack.servers import jars, kafka, postgres
from pipeline.devstack.servers.data_dir import DataDir, ResourceInUse, find_free_port, is_port_taken
from pipeline.devstack.servers.orphans import PidFiles
from pipeline.devstack.servers.process import ChildProcess, Program, StartupFailed, spawn
from pipeline.devstack.servers.restarter import HEALTHY_AFTER_S, Backoff, Restarter
from pipeline.devstack.servers.threads import run_in_background
from pipeline.settings import Settings, environment_of, load_settings
from tests.support.command import gone

PYTHON = sys.executable


def sleeper(folder: Path, code: str = "import time; time.sleep(600)", name: str = "sleeper") -> Program:
    return Program(name, (PYTHON, "-c", code), folder / f"{name}.log")


def test_waits_double_from_a_fifth_of_a_second_to_ten() -> None:
    backoff = Backoff()
    assert [backoff.after(0.1) for _ in range(8)] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])


def test_a_healthy_life_makes_the_next_death_a_first_one() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after(0)
    assert backoff.after(HEALTHY_AFTER_S) == pytest.approx(0.2)
    assert backoff.after(0) == pytest.approx(0.4)


def test_a_folder_has_one_user_and_is_free_when_that_one_is_gone(tmp_path: Path) -> None:
    first, second = DataDir(tmp_path), DataDir(tmp_path)
    first.lock()
    with pytest.raises(ResourceInUse, match=f"already in use by process {os.getpid()}"):
        second.lock()
    first.unlock()
    second.lock()


def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceInUse, match=r"file: not a folder; set MAILFOLD_DATA_DIR"):
        DataDir(tmp_path / "file").lock()


def test_a_port_is_remembered_and_one_that_was_taken_since_is_named(tmp_path: Path) -> None:
    port = DataDir(tmp_path).port("kafka")
    assert DataDir(tmp_path).port("kafka") == port
    assert DataDir(tmp_path).port("postgres") != port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert is_port_taken("127.0.0.1", port)
        with pytest.raises(ResourceInUse, match=f"kafka's port {port} is taken by another program"):
            DataDir(tmp_path).port("kafka")


def test_a_secret_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    made = DataDir(tmp_path).secret("secret")
    assert len(made) >= 32
    assert DataDir(tmp_path).secret("secret") == made
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def test_settings_pass_through_an_environment_unchanged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path, port=1, dispatch_schedule=(0.5, 2), allow_private_destinations=True)
    for name, value in environment_of(given).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == given


async def test_what_a_killed_supervisor_left_is_ended_and_nothing_else(tmp_path: Path) -> None:
    left, other = spawn(sleeper(tmp_path)), spawn(sleeper(tmp_path, name="other"))
    try:
        pids = PidFiles(tmp_path / "pids")
        pids.remember("left", left.pid)
        (tmp_path / "pids" / "reused").write_text(f"{other.pid} {psutil.Process(other.pid).create_time() - 3600}")
        (tmp_path / "pids" / "torn").write_text("12")
        assert await asyncio.to_thread(pids.end_orphans, {"left": signal.SIGTERM}) == ["left"]
        assert not left.is_running()
        assert other.is_running(), "an id that was given to another process must not be trusted"
        assert list((tmp_path / "pids").iterdir()) == []
    finally:
        for child in (left, other):
            child.stop(signal.SIGKILL)


def test_a_child_dies_with_its_parent_even_by_kill_9(tmp_path: Path) -> None:
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


async def test_a_child_that_dies_is_told_of_with_the_end_of_its_log_and_started_again(tmp_path: Path) -> None:
    told: list[str] = []
    keeper = Restarter(sleeper(tmp_path, "raise SystemExit('no bread')"), PidFiles(tmp_path / "pids"), told.append)
    keeper.start_watching()
    async with asyncio.timeout(20):
        while keeper.restarts < 2:
            await asyncio.sleep(0.05)
    await keeper.stop(5)
    assert "sleeper ended with exit code 1; it starts again in 0.2 s." in told[0]
    assert "no bread" in told[1]
    assert list((tmp_path / "pids").iterdir()) == []


async def test_a_child_that_ignores_sigterm_or_is_frozen_ends_all_the_same(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    for code, number in (
        (deaf, signal.SIGCONT),
        ("print('deaf', flush=True); import time; time.sleep(600)", signal.SIGSTOP),
    ):
        child = spawn(sleeper(tmp_path, code))
        await _said(child, "deaf")
        child.process.send_signal(number)
        await child.stop_async(0.3)
        assert not child.is_running()
        (tmp_path / "sleeper.log").unlink()


def test_a_log_that_grew_large_makes_room_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.devstack.servers.process.LOG_MAX_BYTES", 10)
    (tmp_path / "sleeper.log").write_text("0123456789 and more")
    spawn(sleeper(tmp_path, "print('new')")).process.wait()
    assert (tmp_path / "sleeper.log").read_text() == "new\n"
    assert (tmp_path / "sleeper.log.1").read_text() == "0123456789 and more"


async def test_background_work_returns_raises_and_may_be_given_up() -> None:
    assert await run_in_background(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await run_in_background(lambda: 1 / 0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await run_in_background(find_free_port)


def test_a_jar_that_is_not_the_one_we_tested_is_named(tmp_path: Path) -> None:
    for name in ("a.jar", "b.jar", "extra.jar"):
        (tmp_path / name).write_text(name)
    pins = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a.jar", "missing.jar")} | {"b.jar": "0"}
    assert jars.mismatched_jars(tmp_path.iterdir(), pins) == ["b.jar", "extra.jar", "missing.jar"]


def test_the_pinned_jars_are_the_ones_that_are_resolved() -> None:
    assert f"kafka-server-{jars.KAFKA_VERSION}.jar" in jars.fetch_classpath()


def test_a_server_that_cannot_start_says_why(stack_folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        with pytest.raises(StartupFailed, match=r"(?s)Postgres did not answer.*could not bind"):
            postgres.start(stack_folder, other.getsockname()[1])


def test_a_cluster_id_never_looks_like_an_option() -> None:
    assert kafka.cluster_id(b"\xf8" * 16).startswith("_")


def test_a_broken_off_format_is_begun_again(tmp_path: Path) -> None:
    broken = tmp_path / "kafka" / "data.new"
    broken.mkdir(parents=True)
    (broken / "meta.properties").write_text("half a lin")
    kafka.prepare_program(tmp_path / "kafka", find_free_port(), find_free_port())
    assert (tmp_path / "kafka" / "data" / "meta.properties").read_text().count("cluster.id") == 1


async def _said(child: ChildProcess, words: str) -> None:
    async with asyncio.timeout(20):
        while words not in child.tail():
            await asyncio.sleep(0.05)
