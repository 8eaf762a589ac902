"""The record of operators' changes: appended first, without secrets and addresses, and a failure says so."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import admin
from pipeline.admin.actions import MAX_VALUES_BYTES, ActionRecorder, OperatorChange
from pipeline.admin.shown import is_secret_column, shown_destination, shown_provider
from pipeline.errors import ActionNotRecorded, LogUnavailable, Refused
from pipeline.operations.actions import ActionFilter
from pipeline.runtime.ports import LogEntry
from topics.actions import OperatorAction
from topics.codec import encode
from topics.record import LogPosition
from topics.registry import MAX_RECORD_BYTES, OPERATOR_ACTIONS

CHANGE = OperatorChange("keys.revoke", "a1b2", "acme", reason="it leaked", before={"label": "shop"})


class RecordingLog:
    """A log that keeps what is appended, or confirms nothing."""

    def __init__(self, *, confirms: bool = True) -> None:
        self.entries: list[LogEntry] = []
        self._confirms = confirms

    async def append(self, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition | None]:
        """Keep the entries."""
        self.entries += entries
        place = LogPosition(topic=entries[0].topic.name, partition=0, offset=len(self.entries))
        return [place if self._confirms else None for _ in entries]

    @property
    def actions(self) -> list[Any]:
        """Return the records."""
        return [entry.record for entry in self.entries]


def recorder(log: RecordingLog) -> ActionRecorder:
    return ActionRecorder(log, lambda: 7, lambda: "id", "cli anna@host")


def recorded(change: OperatorChange) -> OperatorAction:
    log = RecordingLog()

    async def make() -> None:
        async with recorder(log).recorded(change):
            pass

    asyncio.run(make())
    [action] = log.actions
    assert isinstance(action, OperatorAction)
    return action


def test_change_is_made_after_its_record_is_confirmed() -> None:
    log = RecordingLog()

    async def make() -> list[int]:
        async with recorder(log).recorded(CHANGE):
            return [len(log.entries)]

    assert asyncio.run(make()) == [1]
    [entry] = log.entries
    assert (entry.topic, entry.key) == (OPERATOR_ACTIONS, None)
    assert entry.record == OperatorAction(
        action_id="id",
        recorded_at=7,
        actor="cli anna@host",
        what="keys.revoke",
        target="a1b2",
        tenant="acme",
        reason="it leaked",
        before=msgspec.Raw(b'{"label":"shop"}'),
    )


def test_change_without_a_confirmed_record_is_not_made() -> None:
    made: list[str] = []

    async def make() -> None:
        async with recorder(RecordingLog(confirms=False)).recorded(CHANGE):
            made.append("made")

    with pytest.raises(ActionNotRecorded, match="mailfold topics create") as refused:
        asyncio.run(make())
    assert isinstance(refused.value, LogUnavailable), "routes answer 503"
    assert made == []


def test_change_that_fails_is_recorded_as_not_made() -> None:
    log = RecordingLog()

    async def make() -> None:
        async with recorder(log).recorded(CHANGE):
            raise Refused("anna@example.com is no tenant")

    with pytest.raises(Refused, match="no tenant"):
        asyncio.run(make())
    announced, failed = log.actions
    assert failed == msgspec.structs.replace(announced, failure="Refused")


def test_record_has_no_address_and_no_lone_surrogate() -> None:
    values = {
        "sender_address": "news@shop.example",
        "nested": {"anna@example.com": ["x anna@example.com", "\ud800", 7]},
    }
    action = recorded(OperatorChange("w", "anna@example.com", reason="asked by anna@example.com \ud800", after=values))
    text = encode(OPERATOR_ACTIONS, action).decode()
    assert "@example.com" not in text
    assert "@shop" not in text
    assert action.reason == "asked by [address] ?"


@given(st.text(max_size=3_000), st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.none()))
def test_any_change_fits_into_a_record(text: str, values: dict[str, Any]) -> None:
    action = recorded(OperatorChange("w", text, reason=text, before=values, after={"long": text * 300}))
    assert len(encode(OPERATOR_ACTIONS, action)) < MAX_RECORD_BYTES
    assert len(action.after) <= MAX_VALUES_BYTES


def test_credentials_are_not_shown() -> None:
    provider = admin.Provider("relay", password="s3cr3t-word", webhook_keys=("k3y-of-webhooks",))
    destination = admin.Destination("acme", "7", "https://x.example", "the-key-of-it")
    text = repr((shown_provider(provider), shown_destination(destination)))
    assert "s3cr3t" not in text
    assert "k3y" not in text
    assert "the-key" not in text
    assert shown_provider(provider)["has_password"]


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("password_sealed", True),
        ("key_sealed", True),
        ("dkim_key_sealed", True),
        ("key_hash", True),
        ("webhook_keys", True),
        ("batch_max", False),
        ("dkim_selector", False),
    ],
)
def test_secret_columns_are_known_by_their_names(name: str, is_secret: bool) -> None:
    assert is_secret_column(name) is is_secret


@pytest.mark.parametrize(
    ("wanted", "is_included"),
    [
        (ActionFilter(), True),
        (ActionFilter(what="keys"), True),
        (ActionFilter(what="keys.revoke"), True),
        (ActionFilter(what="key"), False),
        (ActionFilter(what="keys.rotate"), False),
        (ActionFilter(who="anna"), True),
        (ActionFilter(who="bert"), False),
        (ActionFilter(tenant="acme"), True),
        (ActionFilter(tenant="other"), False),
    ],
)
def test_filter_selects_by_actor_kind_and_tenant(wanted: ActionFilter, is_included: bool) -> None:
    assert wanted.includes(recorded(CHANGE)) is is_included
