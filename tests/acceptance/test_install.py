"""Install Mailfold from a clone as on a new machine, and check that it gets exactly the pinned versions."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environments import ROOT, UV, interpreter, pins, resolved, run, uv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
FILES = {"requirements.txt": ["build", "tracing"], "requirements-dev.txt": ["build", "tracing", "dev"]}
WITHOUT_WHEELS = "dkimpy"
"""A package without a wheel, for tests only: pure Python, built by the pinned setuptools."""


@pytest.mark.parametrize("name", FILES)
def test_requirements_are_what_the_resolver_resolves(name: str) -> None:
    assert resolved(ROOT / name, FILES[name]) == pins((ROOT / name).read_text())


@pytest.mark.parametrize("name", FILES)
def test_removed_pin_is_found(name: str, tmp_path: Path) -> None:
    kept = [pin for pin in pins((ROOT / name).read_text()) if not pin.startswith("certifi==")]
    (tmp_path / name).write_text("\n".join(kept))
    assert [pin.partition("==")[0] for pin in resolved(tmp_path / name, FILES[name]) if pin not in kept] == ["certifi"]


@pytest.mark.ci
def test_clone_installs_with_the_oldest_pip_and_nothing_around_it(tmp_path: Path) -> None:
    """Install as in a new container: without our environment variables, an empty home, and Python 3.11's own pip."""
    python = interpreter("3.11")
    if python is None:
        pytest.skip("Python 3.11 is not there")
    clone, home = tmp_path / "clone", tmp_path / "home"
    home.mkdir()
    _copy(clone)
    bare = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "PIP_NO_CACHE_DIR": "1"}
    done = run("make", f"PYTHON={_real(python)}", ".venv/.dev", cwd=clone, env=bare)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    inside = clone / ".venv" / "bin" / "python"
    checked = run(inside, "-m", "pip", "check", cwd=clone, env=bare)
    assert checked.returncode == 0, checked.stdout
    frozen = run(
        inside, "-m", "pip", "list", "--format=freeze", "--exclude=pip", "--exclude-editable", cwd=clone, env=bare
    )
    wanted = {pin.partition(" ;")[0] for name in FILES for pin in pins((ROOT / name).read_text())}
    assert {line.lower().replace("_", "-").replace(".", "-") for line in frozen.stdout.split()} <= {
        pin.replace(".", "-") for pin in wanted
    }
    shown = run(clone / ".venv" / "bin" / "mailfold", "--help", cwd=home, env=bare)
    assert "demo" in shown.stdout


@pytest.mark.ci
@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_unit_tests_pass_on_another_python(version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not there")
    inside = tmp_path / "venv" / "bin" / "python"
    assert uv("venv", "--quiet", "--python", python, tmp_path / "venv").returncode == 0
    exactly = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--python", inside)
    for name, more in (
        ("requirements.txt", ()),
        ("requirements-dev.txt", ("--no-binary", WITHOUT_WHEELS, "--no-build-isolation")),
    ):
        done = uv("pip", "install", "--quiet", *exactly, *more, "-r", name)
        assert done.returncode == 0, done.stderr
    assert uv("pip", "check", "--python", inside).returncode == 0
    done = subprocess.run(
        [inside, "-m", "pytest", "tests/unit", "-q", "--no-header", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV"))} | {"CI": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_installed_resolver_is_the_pinned_one() -> None:
    version = subprocess.run([UV, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert f"uv=={version}" in pins((ROOT / "requirements-dev.txt").read_text())


def _copy(clone: Path) -> None:
    """Copy the files under version control with their uncommitted changes, as a clone of the next commit has them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.decode()
    names = [name for name in listed.split("\0") if (ROOT / name).is_file()]
    assert names or pytest.skip("not a clone")
    for name in names:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)


def _real(python: Path) -> str:
    """Return the path of the interpreter itself, because pyenv's shims need environment variables."""
    printed = subprocess.run(
        [python, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, check=True
    )
    return f"{printed.stdout.strip()}/bin/python{sys.version_info.major}"
