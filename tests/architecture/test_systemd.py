"""The example units for systemd, judged by systemd's own tools, without starting anything."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import command
from pipeline.devstack.role_counts import ROLES
from pipeline.runtime.environment import environment_variable
from pipeline.settings import Settings
from tests.architecture.repository import ROOT, text

FOLDER = "deploy/systemd"
COMMON = f"{FOLDER}/mailfold-.service.d/common.conf"
UNITS = [f"mailfold-{role}@1.service" for role in ROLES if role != "sandbox"]
PROTECTIONS = (
    *("CapabilityBoundingSet", "LockPersonality", "NoNewPrivileges", "PrivateDevices", "PrivateMounts", "PrivateTmp"),
    *("PrivateUsers", "ProtectClock", "ProtectControlGroups", "ProtectHome", "ProtectHostname", "ProtectKernelLogs"),
    *("ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProtectSystem", "RemoveIPC"),
    *("RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"),
    *("SystemCallArchitectures", "SystemCallFilter", "UMask"),
)
"""Directives without which a role of ours would have rights that it does not need."""
LEFT_OUT = {
    # The roles connect to servers and are asked by people, at any address.
    *("IPAddressDeny", "PrivateNetwork", "RestrictAddressFamilies_AF_INET_INET6", "RestrictAddressFamilies_AF_UNIX"),
    *("DeviceAllow", "ProcSubset", "RootDirectoryOrRootImage"),
    # The compiled parts of Python's packages make code at run time.
    "MemoryDenyWriteExecute",
}
MAX_EXPOSURE = 13
"""Tenths of `systemd-analyze security`, which ends at 100 for a unit without any protection."""


@pytest.fixture
def unit_folder(tmp_path: Path) -> Path:
    """A copy of the units whose program exists, as on a machine where Mailfold is installed."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not there")
    copy = tmp_path / "units"
    shutil.copytree(ROOT / FOLDER, copy)
    for unit in copy.glob("*.service"):
        unit.write_text(unit.read_text().replace("/opt/mailfold/bin/mailfold", sys.executable))
    return copy


def analyze(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:", "LC_ALL": "C"}
    return subprocess.run(
        ["systemd-analyze", *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("unit", UNITS)
def test_unit_runs_the_command_of_its_role(unit: str) -> None:
    role = unit.removeprefix("mailfold-").partition("@")[0]
    [started] = re.findall(r"^ExecStart=(.+)$", text(f"{FOLDER}/mailfold-{role}@.service"), re.MULTILINE)
    assert started == f"/opt/mailfold/bin/mailfold {role}"
    assert role in command().commands


def test_units_name_existing_settings() -> None:
    named = set(re.findall(r"(MAILFOLD_\w+)=", text(COMMON)))
    assert named
    assert named <= {environment_variable(field) for field in Settings.model_fields}


@pytest.mark.parametrize("unit", [*UNITS, "mailfold.target"])
def test_systemd_accepts_the_unit(unit_folder: Path, unit: str) -> None:
    done = analyze(unit_folder, "verify", "--man=no", str(unit_folder / unit))
    complaints = [line for line in done.stderr.splitlines() if "mailfold" in line]
    assert (done.returncode, complaints) == (0, [])


@pytest.mark.parametrize("unit", UNITS)
def test_unit_is_hardened(unit_folder: Path, unit: str) -> None:
    done = analyze(unit_folder, "security", "--offline=yes", f"--threshold={MAX_EXPOSURE}", "--no-pager", unit)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr


def open_directives(folder: Path, unit: str) -> set[str]:
    """Return the directives by which systemd says that a unit could be protected and is not."""
    done = analyze(folder, "security", "--offline=yes", "--json=short", "--no-pager", unit)
    return {each["json_field"] for each in json.loads(done.stdout) if not each["set"]}


def test_every_protection_that_is_left_out_is_known(unit_folder: Path) -> None:
    # A newer systemd knows more directives, which older ones would complain about.
    known = {*PROTECTIONS, *LEFT_OUT}
    found = {field for field in open_directives(unit_folder, UNITS[0]) if field.partition("_")[0] in known | {"Root"}}
    assert found <= LEFT_OUT, found - LEFT_OUT


@pytest.mark.parametrize("directive", PROTECTIONS)
def test_each_protection_that_is_taken_away_is_noticed(unit_folder: Path, directive: str) -> None:
    before = open_directives(unit_folder, UNITS[0])
    common = unit_folder / "mailfold-.service.d" / "common.conf"
    kept = re.sub(rf"^{directive}=.*\n", "", common.read_text(), flags=re.MULTILINE)
    assert kept != common.read_text(), "the directive is not there"
    common.write_text(kept)
    assert directive in {field.partition("_")[0] for field in open_directives(unit_folder, UNITS[0]) - before}


def test_hardening_is_found_missing(unit_folder: Path) -> None:
    shutil.rmtree(unit_folder / "mailfold-.service.d")
    done = analyze(unit_folder, "security", "--offline=yes", f"--threshold={MAX_EXPOSURE}", "--no-pager", UNITS[0])
    assert done.returncode != 0
