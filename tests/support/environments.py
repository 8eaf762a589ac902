"""Other Pythons and new environments, for the tests that install Mailfold anew."""

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
    """A Python of this version (3.12) that answers: from the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [Path(name)] if (name := shutil.which(f"python{version}")) else []
    for path in (*found, *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))):
        told = subprocess.run([path, "-c", _VERSION], capture_output=True, text=True, check=False)
        if told.stdout.strip() == version:
            return path
    return None


_VERSION = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"


def pins(text: str) -> list[str]:
    """The pinned versions of a requirements file, with their markers."""
    return sorted(re.sub(r" *\\$", "", line) for line in text.splitlines() if re.match(r"[a-z0-9]", line))


def resolved(constraints: Path, extras: Sequence[str]) -> list[str]:
    """What the resolver wants of `pyproject.toml` on any platform where a file's versions are the only ones."""
    options = [part for extra in extras for part in ("--extra", extra)]
    how = ["--universal", "--python-version", "3.11", "--no-header", "--no-annotate", "--quiet"]
    done = uv("pip", "compile", *how, "--constraint", constraints, *options, "pyproject.toml")
    assert done.returncode == 0, done.stderr
    return pins(done.stdout)
