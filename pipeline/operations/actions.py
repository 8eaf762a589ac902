"""Read the record of operators' changes from `operator-actions`; `mailfold actions` and `mailfold trace` call it."""

import asyncio
import contextlib
from collections import OrderedDict
from typing import Final

import msgspec
from aiokafka.errors import KafkaError

from pipeline.errors import LogUnavailable, NotFound
from pipeline.runtime.kafka.topic_reader import open_topic_reader
from pipeline.settings import Settings
from topics.actions import OperatorAction
from topics.record import Millis
from topics.registry import OPERATOR_ACTIONS

MAX_TRACED_ACTIONS: Final = 20_000
"""Actions at the end of the topic among which `mailfold trace` looks for those that touched an email."""
TRACE_TIMEOUT_S: Final = 5.0
ID_TIME_DIGITS: Final = 12
"""Hexadecimal digits of a UUIDv7 that are its time in milliseconds (RFC 9562 §5.7)."""
CLOCK_TOLERANCE_MS: Final = 600_000
"""Milliseconds by which the clock that made an id may be ahead of the brokers'."""


class ActionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The actions that are asked for; an empty field asks for all."""

    since: Millis = 0
    who: str = ""
    """A part of the actor's name."""
    what: str = ""
    """A command such as ``keys.revoke``, or its group, ``keys``."""
    tenant: str = ""
    action_id: str = ""

    def includes(self, action: OperatorAction) -> bool:
        """Return whether an action is asked for, as far as its time does not matter."""
        return (
            self.who in action.actor
            and (not self.what or f"{action.what}.".startswith(f"{self.what}."))
            and self.tenant in ("", action.tenant)
            and self.action_id in ("", action.action_id)
        )


async def find_actions(settings: Settings, wanted: ActionFilter, limit: int) -> list[OperatorAction]:
    """Return the newest actions that are asked for, at most ``limit``, oldest first. Raise LogUnavailable.

    An action that was announced and then not made is there once, with its failure.
    """
    found: OrderedDict[str, OperatorAction] = OrderedDict()
    async with open_topic_reader(settings, OPERATOR_ACTIONS) as reader:
        start = await reader.offset_at(wanted.since) if wanted.since else reader.beginning
        async for _, action in reader.read(start, reader.end):
            if wanted.includes(action):
                _add(found, action, limit)
    return list(found.values())


async def find_action(settings: Settings, action_id: str) -> OperatorAction:
    """Return one action by its id. Raise NotFound and LogUnavailable."""
    try:
        since = int(action_id.replace("-", "")[:ID_TIME_DIGITS], 16) - CLOCK_TOLERANCE_MS
    except ValueError:
        since = 0
    actions = await find_actions(settings, ActionFilter(since=max(since, 0), action_id=action_id), 1)
    if not actions:
        raise NotFound(f"no action {action_id}; `mailfold actions list` shows their ids")
    return actions[0]


async def recent_actions(settings: Settings) -> list[OperatorAction] | None:
    """Return the latest actions, at most MAX_TRACED_ACTIONS; None where the topic can't be read at once."""
    found: OrderedDict[str, OperatorAction] = OrderedDict()
    with contextlib.suppress(KafkaError, LogUnavailable, TimeoutError):
        async with asyncio.timeout(TRACE_TIMEOUT_S), open_topic_reader(settings, OPERATOR_ACTIONS) as reader:
            async for _, action in reader.read(max(reader.beginning, reader.end - MAX_TRACED_ACTIONS), reader.end):
                _add(found, action, MAX_TRACED_ACTIONS)
            return list(found.values())
    return None


def _add(found: OrderedDict[str, OperatorAction], action: OperatorAction, limit: int) -> None:
    """Add an action, or the failure of one that is there already; remove the oldest beyond the limit."""
    announced = found.get(action.action_id)
    found[action.action_id] = (
        action if announced is None else msgspec.structs.replace(announced, failure=action.failure)
    )
    if len(found) > limit:
        found.popitem(last=False)
