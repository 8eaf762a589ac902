"""Servers of short runs, and the marker `chaos`: minutes, only where asked for (`make chaos-mutations`)."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.servers import Servers, servers


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos: minutes; only with -m chaos")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "chaos" in (config.getoption("-m") or ""):
        return
    kept = [item for item in items if item.get_closest_marker("chaos") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


@pytest.fixture
async def given(server_folder: Path) -> AsyncIterator[Servers]:
    """Yield servers of a test's own, which it may kill."""
    async with servers(server_folder / "chaos") as made:
        yield made
