"""A short upgrade from the released version and back under load, judged as the long one of `make upgrade-test`."""

import subprocess
from pathlib import Path

import pytest

from tests.chaos import source
from tests.chaos.play import Size
from tests.chaos.runner import Trial, run
from tests.chaos.scenarios import SINGLES
from tests.chaos.servers import Servers
from tests.chaos.upgrade import RELEASED, upgrade

SEED = 7
PASSES = 2
"""Up, and down again."""


@pytest.mark.ci
@pytest.mark.timeout(600)
async def test_released_version_is_upgraded_and_brought_back_under_load(given: Servers, tmp_path: Path) -> None:
    try:
        before = source.copy(tmp_path / "before", RELEASED)
    except subprocess.CalledProcessError:
        pytest.skip(f"{RELEASED} is not in this clone: fetch its whole history")
    scenario = upgrade(RELEASED, before, source.copy(tmp_path / "after"), SINGLES, PASSES)
    result = await run(scenario, given, SEED, Trial(tmp_path, before, Size(emails=60)))
    assert list(result.verdict.shown()) == []
    assert result.faults == PASSES * len(SINGLES) + 1, "each process was replaced in each pass, a projector once more"
