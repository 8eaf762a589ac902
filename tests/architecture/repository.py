"""The repository as the architecture tests read it."""

import ast
import contextlib
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROOMS = ("pipeline", "topics", "projections", "tests", "bench")


@cache
def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def project() -> dict[str, Any]:
    return tomllib.loads(text("pyproject.toml"))


def tracked() -> list[Path]:
    """Every file under version control, or, in an unpacked archive, every file that isn't ignored."""
    with contextlib.suppress(FileNotFoundError):
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
        if done.returncode == 0 and done.stdout:
            return [path for name in done.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]
    hidden = re.compile(
        r"/(\.venv|\.coverage[^/]*|build|\.hypothesis|\.mailfold|\.git|__pycache__|[^/]*_cache|[^/]*\.egg-info)(/|$)"
    )
    return [path for path in ROOT.rglob("*") if path.is_file() and not hidden.search(str(path))]


def modules() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def section(page: str, heading: str) -> str:
    """What stands under a heading of a Markdown page."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {heading!r}"
    return found[1]


def table(part: str) -> list[list[str]]:
    """The first table's rows, without its head; backticks removed."""
    rows = [line.strip().strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in row] for row in rows[2:]]
