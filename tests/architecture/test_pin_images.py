"""The release step that pins images by digest, with a registry that a script stands for."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.architecture.repository import ROOT

FILES = ("docker-compose.yml", "deploy/observability/compose.yml", "Dockerfile")
DOCKER = """#!/bin/sh
[ "$1 $2 $3 $4" = "buildx imagetools inspect --format" ] || exit 2
printf 'sha256:%s\\n' "$(printf %s "$6" | sha256sum | cut -d ' ' -f 1)"
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the files that name images."""
    for name in FILES:
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "copy" / name)
    return tmp_path / "copy"


def pin(folder: Path, docker: str) -> "subprocess.CompletedProcess[str]":
    program = folder.parent / "bin" / "docker"
    program.parent.mkdir(exist_ok=True)
    program.write_text(docker)
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    command = [ROOT / ".ci/pin-images", folder]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def images_of(folder: Path) -> list[str]:
    composed = [yaml.safe_load((folder / name).read_text())["services"].values() for name in FILES[:2]]
    images = [service["image"] for services in composed for service in services if service["image"] != "mailfold"]
    return [*images, (folder / "Dockerfile").read_text().partition("ARG PYTHON_IMAGE=")[2].split()[0]]


def test_each_image_gets_the_digest_of_its_version(copy: Path) -> None:
    before = [image.partition("@")[0] for image in images_of(copy)]
    for _ in range(2):
        done = pin(copy, DOCKER)
        assert done.returncode == 0, done.stderr
        pinned = [f"{image}@sha256:{hashlib.sha256(image.encode()).hexdigest()}" for image in before]
        assert images_of(copy) == pinned, "also when they are pinned already"
        assert done.stdout.splitlines() == sorted(pinned)
    assert len(pinned) == 5


def test_registry_that_does_not_answer_stops_the_release_step(copy: Path) -> None:
    assert pin(copy, "#!/bin/sh\nexit 1\n").returncode != 0
    done = pin(copy, "#!/bin/sh\necho denied\n")
    assert (done.returncode, "no digest of" in done.stderr) == (1, True)
    assert not [image for image in images_of(copy) if "denied" in image]
