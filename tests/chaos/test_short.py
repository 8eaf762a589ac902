"""A short chaos run for every `make test`: kills during live traffic, with the same checks as the long one."""

from pathlib import Path

import pytest

from tests.chaos import source
from tests.chaos.play import Size
from tests.chaos.runner import Trial, run
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.servers import Servers

SEED = 20


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scenario", ["kill-pairs", pytest.param("held-worker", marks=pytest.mark.ci)])
async def test_guarantees_hold_under_scenario(scenario: str, given: Servers, tmp_path: Path) -> None:
    trial = Trial(tmp_path, source.copy(tmp_path / "tree"), Size(emails=150, kills=4))
    result = await run(SCENARIOS[scenario], given, SEED, trial)
    assert list(result.verdict.shown()) == []
