"""What CI does, and that it can't be fooled by a test that didn't run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT, text
from tests.support.caught_up import _lagging_partitions
from tests.support.skips import unexpected

SKIPPED = "import pytest\n\n@pytest.mark.skip(reason='no server')\ndef test_it(): ...\n\ndef test_other(): ...\n"
WHOLE = "import pytest\npytest.importorskip('a_package_that_is_not_there')\n\ndef test_it(): ...\n"
XFAILED = "import pytest\n\n@pytest.mark.xfail(strict=True)\ndef test_it(): assert False\n"


def test_permission_covers_a_test_and_its_parameters_only() -> None:
    skipped = ["a.py::test_x", "a.py::test_x[1]", "a.py::test_y[1]", "a.py::test_xy"]
    assert unexpected(skipped, {"a.py::test_x", "a.py::test_y[2]"}) == ["a.py::test_xy", "a.py::test_y[1]"]


@pytest.mark.parametrize(
    ("body", "ci", "code"), [(SKIPPED, "true", 1), (WHOLE, "true", 1), (XFAILED, "true", 0), (SKIPPED, "", 0)]
)
def test_unexpected_skip_fails_the_run_in_ci_only(tmp_path: Path, body: str, ci: str, code: int) -> None:
    (tmp_path / "test_it.py").write_text(body)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.skips", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in ({code} if body is not WHOLE else {1, 5}), done.stdout
    assert ("SKIPPED without leave" in done.stdout) == (code == 1)


def test_ci_runs_the_checks_and_the_tests_with_a_bound_on_coverage() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make check" in text(".ci/run")
    assert "--cov-fail-under=" in text(".ci/run")
    assert "export CI=true" in text(".ci/run")


def test_tests_for_ci_run_where_ci_is_set_and_nowhere_else() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "tests/acceptance/test_install.py"]
    collected = {}
    for ci in ("true", ""):
        environment = {**os.environ, "CI": ci}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        collected[ci] = "test_unit_tests_pass_on_another_python[3.12]" in done.stdout
    assert collected == {"true": True, "": False}


def test_ci_has_the_mail_servers_whose_reports_are_read() -> None:
    assert os.access(ROOT / ".ci" / "mail-servers", os.X_OK)
    assert ".ci/mail-servers" in text(".ci/run")
    assert "--no-remove" in text(".ci/mail-servers")


def test_ci_has_the_php_that_posts_as_freshmail_s_client() -> None:
    assert os.access(ROOT / ".ci" / "php", os.X_OK)
    assert ".ci/php" in text(".ci/run")
    assert "--no-remove" in text(".ci/php")


def test_unread_partitions_are_behind() -> None:
    ends = {("facts", 0): 5, ("facts", 1): 0, ("facts", 2): 3}
    assert _lagging_partitions(ends, {("facts", 0): 5, ("facts", 2): 4}) == []
    assert _lagging_partitions(ends, {("facts", 0): 4}) == ["facts/0 at 4 of 5", "facts/2 at 0 of 3"]
