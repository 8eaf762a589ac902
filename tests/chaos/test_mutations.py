"""Mutation tests of the chaos harness: each breaks one guard on purpose, and the harness must fail.

`make chaos-mutations`; minutes. Each mutation runs on a copy of the source, in the scenario that must notice,
and the same scenario must hold on the source as it is: else red would prove nothing.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos import source
from tests.chaos.mutations import HARMLESS, MUTATIONS, Mutation
from tests.chaos.play import Size
from tests.chaos.runner import ITSELF, Trial, run
from tests.chaos.scenarios import SCENARIOS
from tests.chaos.servers import Servers, servers

SEED = 1
PATIENCE = 40.0
"""What is lost never comes: no use in waiting for it as long as for what is late."""


@pytest.mark.parametrize("mutation", [*MUTATIONS, *HARMLESS], ids=lambda one: one.name)
def test_mutation_patch_finds_its_text(mutation: Mutation, tmp_path: Path) -> None:
    source.copy(tmp_path, patches=mutation.patches + mutation.louder)
    for patch in mutation.patches:
        if patch.file.endswith(".py"):
            path = tmp_path / patch.file
            compile(path.read_text(encoding="utf-8"), path, "exec")


@pytest.fixture
async def given(server_folder: Path) -> AsyncIterator[Servers]:
    async with servers(server_folder / "chaos") as made:
        yield made


def _trial(tmp_path: Path, mutation: Mutation, patches: tuple[source.Patch, ...], patience: float) -> Trial:
    size = Size(mutation.emails, mutation.kills, patience=patience)
    return Trial(tmp_path, source.copy(tmp_path / "tree", patches=patches), size)


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
async def test_mutation_is_detected(mutation: Mutation, given: Servers, tmp_path: Path) -> None:
    trial = _trial(tmp_path, mutation, mutation.patches + mutation.louder, PATIENCE)
    result = await run(SCENARIOS[mutation.scenario], given, SEED, trial)
    print("\n".join(result.verdict.shown()))
    assert not result.skipped
    assert ITSELF not in result.verdict.breaches, "what doesn't work at all is no subtle mistake"
    assert result.verdict.breaches, f"{mutation.scenario} held although {mutation.name}"


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutation", HARMLESS, ids=lambda one: one.name)
async def test_harmless_mutation_breaks_nothing(mutation: Mutation, given: Servers, tmp_path: Path) -> None:
    result = await run(SCENARIOS[mutation.scenario], given, SEED, _trial(tmp_path, mutation, mutation.patches, 120.0))
    assert list(result.verdict.shown()) == []


BASELINES = {(mutation.scenario, mutation.louder): mutation for mutation in MUTATIONS}


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutation", BASELINES.values(), ids=lambda one: one.scenario)
async def test_unmutated_source_passes_in_same_setup(mutation: Mutation, given: Servers, tmp_path: Path) -> None:
    trial = _trial(tmp_path, mutation, mutation.louder, 3 * PATIENCE)
    result = await run(SCENARIOS[mutation.scenario], given, SEED, trial)
    assert list(result.verdict.shown()) == []
