"""Test that new files and folders are their owner's only under any umask, and that folders above keep their modes."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pipeline.devstack.sandbox.keys import public_key
from pipeline.devstack.servers import kafka, postgres
from pipeline.devstack.servers.data_dir import DataDir, find_free_port
from pipeline.devstack.servers.orphans import PidFiles
from pipeline.devstack.servers.postgres_programs import find_programs, public_programs
from pipeline.devstack.servers.process import Program, StartupFailed, spawn
from pipeline.gateway.spool_files import SpoolSegments
from pipeline.runtime.private_files import make_private_folder, open_private, replace_file
from tests.support.modes import mode, open_to_others

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives Postgres another user")


@pytest.fixture(params=[0o000, 0o027, 0o777], ids=["0", "027", "777"])
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder that is closed to all other users, as root's home is."""
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o700)
    yield folder
    assert mode(folder) == 0o700


@pytest.fixture
def public() -> Iterator[Path]:
    """Yield a folder that all users can reach, which they can't with `tmp_path`."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_created_folders_and_files_are_private_under_any_umask(closed: Path, umask: int) -> None:
    make_private_folder(closed / "a" / "b")
    replace_file(closed / "a" / "b" / "secret", "one")
    replace_file(closed / "a" / "b" / "secret", b"two")
    os.close(open_private(closed / "a" / "log", os.O_WRONLY))
    assert {mode(closed / name) for name in ("a", "a/b")} == {0o700}
    assert {mode(closed / name) for name in ("a/b/secret", "a/log")} == {0o600}
    assert [path.name for path in (closed / "a" / "b").iterdir()] == ["secret"]


def test_existing_parent_folder_keeps_its_mode(tmp_path: Path, umask: int) -> None:
    above = tmp_path / "above"
    above.mkdir()
    for bits in (0o755, 0o700, 0o711):
        above.chmod(bits)
        make_private_folder(above / f"{bits:o}" / "below")
        assert mode(above) == bits


def test_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        make_private_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        make_private_folder(tmp_path / "file" / "below")


def test_all_files_of_a_stack_are_private_under_any_umask(closed: Path, umask: int) -> None:
    root = closed / "deep" / ".mailfold"
    home = DataDir(root)
    home.lock()
    home.port("kafka")
    home.secret("api-key")
    PidFiles(root / "pids").remember("me", os.getpid())
    public_key(root)
    spool = SpoolSegments(root / "spool")
    spool.write([b"line"], "1")
    spool.rotate()
    kafka.prepare_program(root / "kafka", find_free_port(), find_free_port())
    child = spawn(
        Program("writer", (sys.executable, "-c", f"open({str(root / 'role.port')!r}, 'w')"), home.log_path("writer"))
    )
    assert child.process.wait() == 0
    home.unlock()
    assert len(list(root.rglob("*"))) > 15
    assert open_to_others(closed) == []


def test_data_folder_with_open_modes_is_made_private(tmp_path: Path) -> None:
    root = tmp_path / ".mailfold"
    (root / "logs").mkdir(parents=True)
    (root / "lock").write_text("1")
    root.chmod(0o711)
    (root / "logs").chmod(0o755)
    DataDir(root).lock()
    assert (mode(root), mode(root / "logs"), mode(root / "lock")) == (0o700, 0o700, 0o600)


def test_folder_with_other_content_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "of somebody else").mkdir()
    for path in (shared, shared / "of somebody else"):
        path.chmod(0o755)
    DataDir(shared).lock()
    assert (mode(shared), mode(shared / "of somebody else")) == (0o755, 0o755)
    assert mode(shared / "lock") == 0o600


def test_postgres_runs_in_a_folder_that_is_closed_to_others(stack_folder: Path, umask: int) -> None:
    above = stack_folder.parents[2]
    make_private_folder(above)
    child, url = postgres.start(stack_folder, find_free_port())
    try:
        with psycopg.connect(url) as connection:
            connection.execute("create table kept (it int)")
    finally:
        postgres.stop(child)
    assert open_to_others(above) == []


@ROOT_ONLY
def test_unreachable_programs_are_copied_and_keep_their_modes(closed: Path, public: Path) -> None:
    programs = _programs(closed)
    folder = public_programs(programs, public / "copies")
    assert folder.is_relative_to(public / "copies")
    assert (folder / "postgres").read_text() == "the server"
    assert (mode(folder / "postgres"), mode(folder.parent / "share" / "zones")) == (0o755, 0o644)
    assert public_programs(programs, public / "copies") == folder
    assert mode(closed) == 0o700
    assert mode(programs / "postgres") == 0o700


@ROOT_ONLY
def test_postgres_runs_from_a_copy_of_unreachable_programs(
    closed: Path, public: Path, stack_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = find_programs()
    package = real.parents[1]
    shutil.copytree(real.parent, closed / package.name / real.parent.name)
    if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
        shutil.copytree(libraries, closed / libraries.name)
    copied = public_programs(closed / real.relative_to(real.parents[2]), public)
    monkeypatch.setattr(postgres, "public_programs", lambda _: copied)
    child, url = postgres.start(stack_folder, find_free_port())
    try:
        assert postgres.is_ready(url)
        assert child.program.argv[0].startswith(str(public))
    finally:
        postgres.stop(child)


@ROOT_ONLY
def test_changed_programs_get_their_own_copy(closed: Path, public: Path) -> None:
    programs = _programs(closed)
    first = public_programs(programs, public / "copies")
    (programs / "postgres").write_text("a newer server")
    assert (public_programs(programs, public / "copies") / "postgres").read_text() == "a newer server"
    assert (first / "postgres").read_text() == "the server"


@ROOT_ONLY
def test_failed_copy_is_reported_with_its_remedy(closed: Path, tmp_path: Path) -> None:
    (tmp_path / "copies").write_text("in the way")
    with pytest.raises(StartupFailed, match="Run Mailfold as an ordinary user, or install it where all users may read"):
        public_programs(_programs(closed), tmp_path / "copies")


def test_installed_programs_are_found() -> None:
    assert os.access(find_programs() / "postgres", os.X_OK)


def _programs(closed: Path) -> Path:
    programs = closed / "package" / "pginstall" / "bin"
    for path, text in (("bin/postgres", "the server"), ("share/zones", "UTC")):
        file = programs.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o700 if path.startswith("bin") else 0o600)
    return programs
