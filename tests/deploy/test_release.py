"""What `make dist` makes, without the audit, which needs a service on the internet."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.architecture.repository import project, text
from tests.deploy.tools import install_release_tools
from tests.support.environments import run

pytestmark = [pytest.mark.ci, pytest.mark.timeout(600)]


def test_distribution_has_wheel_chart_a_list_of_every_pin_and_checksums(tmp_path: Path) -> None:
    install_release_tools()
    done = run("make", "dist", f"DIST={tmp_path / 'dist'}")
    assert done.returncode == 0, done.stderr
    version = project()["project"]["version"]
    files = {path.name: path for path in (tmp_path / "dist").iterdir()}
    assert set(files) == {
        *(f"mailfold-{version}-py3-none-any.whl", f"mailfold-{version}.tgz"),
        *("mailfold.cdx.json", "SHA256SUMS"),
    }
    pinned = set(re.findall(r"^([a-z0-9._-]+)==(\S+)", text("requirements.txt"), re.MULTILINE))
    listed = json.loads(files["mailfold.cdx.json"].read_text())["components"]
    assert {(each["name"], each["version"]) for each in listed} == pinned
    for line in files.pop("SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256(files.pop(name).read_bytes()).hexdigest() == digest
    assert files == {}


def test_audit_takes_an_unreachable_service_for_a_failure() -> None:
    assert "pip-audit --strict" in text("Makefile")
