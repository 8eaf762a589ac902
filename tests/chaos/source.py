"""Copies of the product's source, so that a run is not affected by later changes.

Mutations are applied to such copies only. A patch whose text is not there fails loudly.
"""

import io
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.world import ROOT

PACKAGES = ("pipeline", "projections", "topics")


@dataclass(frozen=True)
class Patch:
    """The replacement of a text in a file, where it must occur exactly once."""

    file: str
    old: str
    new: str


class Stale(Exception):
    """The text of a patch does not occur exactly once in the source, so the mutation must be updated."""


def copy(folder: Path, ref: str = "", patches: tuple[Patch, ...] = ()) -> Path:
    """Copy the packages of the working tree, or of the commit ``ref``, to ``folder`` and patch them. Raises Stale."""
    if ref:
        tar = subprocess.run(["git", "archive", ref, *PACKAGES], cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            archive.extractall(folder, filter="data")
    else:
        for name in PACKAGES:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for patch in patches:
        apply(folder, patch)
    return folder


def apply(folder: Path, patch: Patch) -> None:
    path = folder / patch.file
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.count(patch.old) != 1:
        raise Stale(f"{patch.file} has this text {text.count(patch.old)} times, not once: {patch.old!r}")
    path.write_text(text.replace(patch.old, patch.new), encoding="utf-8")
