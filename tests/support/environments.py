"""Find other Pythons, run uv, and resolve requirements, for the tests that install Mailfold."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = str(Path(sys.executable).with_name("uv"))
NO_INDEX = re.compile(
    r"error sending request|Failed to fetch|NewConnectionError|Could not connect|dns error", re.IGNORECASE
)


def run(
    *command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command; skip the test where no package index answers."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ if env is None else env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and NO_INDEX.search(done.stderr):
        pytest.skip("no package index answers")
    return done


def uv(*arguments: str | Path, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return run(UV, "--system-certs", *arguments, cwd=cwd)


def interpreter(version: str) -> Path | None:
    """Return a Python of this version, such as 3.12, that runs: from the path, else pyenv's; None without one."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = [Path(name)] if (name := shutil.which(f"python{version}")) else []
    for path in (*on_path, *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))):
        printed = subprocess.run([path, "-c", _PRINT_VERSION], capture_output=True, text=True, check=False)
        if printed.stdout.strip() == version:
            return path
    return None


_PRINT_VERSION = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"


def pins(text: str) -> list[str]:
    """Return the pinned versions of a requirements file, with their markers."""
    return sorted(re.sub(r" *\\$", "", line) for line in text.splitlines() if re.match(r"[a-z0-9]", line))


def resolved(constraints: Path, extras: Sequence[str]) -> list[str]:
    """Return what the resolver makes of `pyproject.toml`, for all platforms, with a file's versions as constraints."""
    options = [part for extra in extras for part in ("--extra", extra)]
    mode = ["--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--quiet"]
    done = uv("pip", "compile", *mode, "--constraint", constraints, *options, "pyproject.toml")
    assert done.returncode == 0, done.stderr
    return pins(done.stdout)
