"""Test that outcomes pass the gate before the log together while there are many."""

import asyncio

import pytest

from pipeline.runtime.kafka import append
from pipeline.runtime.kafka.append import AppendGate


async def test_first_outcome_passes_at_once_and_later_ones_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "GATHER_S", 0.2)
    gate = AppendGate()
    first = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    assert first.done()
    later = [asyncio.create_task(gate.wait()) for _ in range(5)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in later)
    await later[0]
    await asyncio.sleep(0)
    assert all(task.done() for task in later)
