"""Check what helps people who join: licence, metadata, version, commit subjects."""

import importlib.machinery
import importlib.util
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.main import app
from tests.architecture.repository import ROOT, project, text


def commit_problem() -> Callable[[str], str | None]:
    loader = importlib.machinery.SourceFileLoader("commit_message", str(ROOT / ".ci" / "commit-message"))
    spec = importlib.util.spec_from_loader("commit_message", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    found: Callable[[str], str | None] = module.problem
    return found


@pytest.mark.parametrize(
    "message",
    [
        "dispatch: resend after a crash\n",
        "gateway, worker: count stalls\n\nThe loop's lag is measured.\n# a comment\n",
        "Merge branch 'main'\n",
        "docs: " + "x" * 66,
    ],
)
def test_commit_message_with_prefix_and_short_subject_is_accepted(message: str) -> None:
    assert commit_problem()(message) is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("docs: " + "x" * 67, "73 characters"),
        ("Resend after a crash", "begin with a component"),
        ("dispatch: ", "begin with a component"),
        ("dispatch: resend\nafter a crash", "line after the subject"),
        ("", "begin with a component"),
    ],
)
def test_commit_message_without_prefix_or_too_long_is_refused(message: str, reason: str) -> None:
    assert reason in (commit_problem()(message) or "")


def test_commit_message_hook_is_executable_and_configured() -> None:
    assert os.access(ROOT / ".ci" / "commit-message", os.X_OK)
    assert "entry: .ci/commit-message" in text(".pre-commit-config.yaml")


def test_version_option_prints_the_version_of_pyproject() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    assert done.output == f"mailfold {project()['project']['version']}\n"


def test_licence_and_type_marker_are_packaged() -> None:
    assert project()["project"]["license"] == "Apache-2.0"
    assert "Apache License" in text("LICENSE")
    for package in ("pipeline", "topics", "projections"):
        assert (ROOT / package / "py.typed").is_file()
    assert "py.typed" in project()["tool"]["setuptools"]["package-data"]["*"]


def test_classifiers_name_every_python_version_that_ci_runs() -> None:
    pyproject = tomllib.loads(Path(ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    versions = {line.rpartition(" ")[2] for line in pyproject["project"]["classifiers"] if ":: 3." in line}
    assert versions == {"3.11", "3.12", "3.13"}


@pytest.mark.parametrize(
    "version", re.split(r"^## ", text("CHANGELOG.md"), flags=re.MULTILINE)[1:], ids=lambda v: v[:12]
)
def test_changelog_has_each_kind_of_change_and_each_entry_once_per_version(version: str) -> None:
    kinds = re.findall(r"^### (.+)$", version, re.MULTILINE)
    order = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    assert kinds == [kind for kind in order if kind in kinds]
    entries = re.findall(r"^- .+(?:\n  .+)*", version, re.MULTILINE)
    assert [entry for entry in set(entries) if entries.count(entry) > 1] == []
