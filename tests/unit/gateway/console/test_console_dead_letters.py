"""Replaying a selection: in the order of the log, and no further than Postgres and Kafka answer."""

from typing import Any, cast

import pytest

from pipeline.errors import LogUnavailable, NotFound
from pipeline.gateway.console import dead_letters
from pipeline.gateway.console.dead_letters import ReplayResult
from pipeline.operations import dead_letters as dead_letters_operation


async def test_replay_stops_where_kafka_is_away_and_says_what_became_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    async def replay(_services: Any, _viewer: Any, entry_id: str, _reason: str) -> ReplayResult:
        tried.append(entry_id)
        if entry_id == "b":
            raise LogUnavailable
        return ReplayResult(entry_id, is_replayed=True, text="")

    monkeypatch.setattr(dead_letters, "_replay", replay)
    results = await dead_letters._replay_in_order(cast("Any", None), cast("Any", None), ["a", "b", "c"], "why")
    assert tried == ["a", "b"]
    assert [(each.id, each.is_replayed) for each in results] == [("a", True), ("b", False), ("c", False)]
    assert results[2].text == "not tried"


def test_records_are_replayed_in_the_order_of_the_log() -> None:
    ids = ["dead-letters/0/10", "dead-letters/0/9", "emit/x/open", "dead-letters/0/x"]
    assert sorted(ids, key=dead_letters._place)[2:] == ["dead-letters/0/9", "dead-letters/0/10"]


async def test_who_may_not_see_the_topic_makes_nobody_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnView:
        reader: Any
        state: Any

        async def sees_installation(self, _viewer: Any) -> bool:
            return False

    services: Any = OwnView()
    services.reader = services
    monkeypatch.setattr(dead_letters_operation, "find_entry", lambda *_: pytest.fail("read"))
    with pytest.raises(NotFound):
        await dead_letters._entry(services, cast("Any", None), "dead-letters/0/1")
