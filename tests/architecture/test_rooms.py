"""The rules of the layout: sizes of files and functions, what each room holds, and what must not be committed."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT, functions, length, modules, text, tracked

ALLOWED_AT_TOP = {
    *("pyproject.toml", "README.md", "docker-compose.yml", "Makefile", "CHANGELOG.md", "CONTRIBUTING.md"),
    *(
        "Dockerfile",
        ".dockerignore",
        ".gitignore",
        "requirements.txt",
        "requirements-dev.txt",
        "requirements-bench.txt",
        "requirements-release.txt",
    ),
    *("LICENSE", "SECURITY.md", "CODE_OF_CONDUCT.md", ".editorconfig", ".pre-commit-config.yaml"),
    *("pipeline", "topics", "projections", "tests", "bench", "docs", "deploy", ".ci", ".devcontainer", ".github"),
}
NAMES = [str(path.relative_to(ROOT)) for path in modules()]


def test_top_level_contains_only_expected_files() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in tracked()} <= ALLOWED_AT_TOP


@pytest.mark.parametrize("name", NAMES)
def test_no_file_is_longer_than_400_lines_and_no_function_than_40(name: str) -> None:
    assert len(text(name).splitlines()) <= 400
    assert [found.name for found in functions(ROOT / name) if length(found) > 40] == []


def test_median_function_is_short() -> None:
    lengths = sorted(length(found) for path in modules() if "tests" not in path.parts for found in functions(path))
    assert lengths[len(lengths) // 2] <= 10


@pytest.mark.parametrize("name", NAMES)
def test_every_module_has_a_docstring(name: str) -> None:
    body = text(name)
    assert not body.strip() or ast.get_docstring(ast.parse(body)), "what flows in, what flows out?"


def test_settings_are_read_by_bootstrap_and_commands_only() -> None:
    readers = {name for name in NAMES if re.search(r"os\.environ|os\.getenv", text(name)) and name.startswith("pipe")}
    # Children inherit an environment; a credential may be named by its variable. Nobody else looks.
    assert {name for name in readers if not name.startswith(("pipeline/devstack/servers/", "pipeline/cli/"))} == {
        "pipeline/runtime/environment.py"
    }


def test_sql_lives_in_sql_files() -> None:
    statement = re.compile(r"""["'](select .+ from|insert into|update \w+ set|delete from) """, re.IGNORECASE)
    found = [name for name in NAMES if name.startswith(("pipeline/", "projections/")) and statement.search(text(name))]
    assert [name for name in found if name not in _WITH_SQL] == []


_WITH_SQL = {
    "projections/migrate.py",  # makes the table that says which files were applied
    "pipeline/cli/settings.py",  # reads that table
    "projections/swap.py",  # compares tables by name: the names are composed
    "pipeline/operations/rebuild.py",  # two one-line questions to the schema it swaps
    "pipeline/devstack/demo/client.py",  # one line, which follows a status on screen
}


def test_requirements_are_pinned_by_hash_and_name_no_place() -> None:
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-bench.txt", "requirements-release.txt"):
        lines = text(name).splitlines()
        pins = [line for line in lines if re.match(r"[a-z]", line)]
        assert all(re.match(r"[a-z0-9._-]+==\S+ (; .+ )?\\$", line) for line in pins)
        assert text(name).count("--hash=sha256:") >= len(pins)
        assert not re.search(r"https?:|--(extra-)?index|--find-links|file:", text(name))


def test_no_secret_and_no_place_of_one_machine_is_in_the_repository() -> None:
    for path, line in _lines():
        assert not _PRIVATE.search(line), f"{path.relative_to(ROOT)}: {line.strip()[:120]}"


def test_no_environment_file_is_in_the_repository() -> None:
    assert [path for path in tracked() if path.name == ".env" or path.suffix in {".pem", ".key"}] == []


# Package indexes by host name, home folders, private keys. Assembled, so that this file doesn't find itself.
_PRIVATE = re.compile(
    "|".join(
        ("files.python" + "hosted", "pypi" + r"\.org", "/ro" + "ot/", "/ho" + "me/", "BEGIN " + "[A-Z ]*PRIVATE KEY")
    )
)


def _lines() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        try:
            body = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for line in body.splitlines():
            yield path, line
