"""Read the states on an engine's changelog, and compare them with the expected ones: a plain fold of all events.

Every engine writes its changelog in a format of its own. Re-encoded with our codec, all must have the same bytes, so
that an engine which loses or changes states cannot pass as a fast one.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from pipeline.runtime.kafka.log import discover_partitions
from pipeline.worker.fold import evolve
from topics.codec import Undecodable, decode, encode
from topics.registry import DELIVERY_EVENTS, EMAIL_STATES
from topics.states import EmailState

Unwrap = Callable[[bytes, bytes], tuple[bytes, bytes]]
"""Converts the key and value of a changelog record to the email id and the state as JSON."""

_SHOWN: Final = 3


class Different(Exception):
    """The states of an engine differ from the expected ones, so its figures are invalid."""


@dataclass(frozen=True)
class Expected:
    """The result of a plain fold of a topic."""

    states: Mapping[bytes, bytes]
    events: int


async def expected(bootstrap: str, topic: str) -> Expected:
    """Fold every event of a topic, one after the other, and return the states."""
    states: dict[bytes, EmailState] = {}
    events = 0
    async for _, value in records(bootstrap, topic):
        event = decode(DELIVERY_EVENTS, value)
        key = event.email_id.encode()
        states[key] = evolve(states.get(key), event)
        events += 1
    return Expected({key: encode(EMAIL_STATES, state) for key, state in states.items()}, events)


async def compacted(bootstrap: str, topic: str, unwrap: Unwrap) -> dict[bytes, bytes]:
    """Return the last state of each key on a changelog, re-encoded with our codec if it can be decoded."""
    last = {key: value async for key, value in records(bootstrap, topic)}
    unwrapped = (unwrap(key, value) for key, value in last.items() if value is not None)
    return {key: _canonical(value) for key, value in unwrapped}


def compare(name: str, found: Mapping[bytes, bytes], wanted: Mapping[bytes, bytes]) -> None:
    """Raise Different, with a few examples, unless both have the same keys and states."""
    missing, more = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    wrong = {key for key in wanted.keys() & found.keys() if found[key] != wanted[key]}
    if not missing and not more and not wrong:
        return
    lines = [f"{name}: of {len(wanted)} states {len(missing)} missing, {len(wrong)} wrong; {len(more)} too many"]
    for key in sorted(missing | more | wrong)[:_SHOWN]:
        lines += [f"  {key.decode(errors='replace')}", f"    is     {_text(found, key)}"]
        lines += [f"    should be {_text(wanted, key)}"]
    raise Different("\n".join(lines))


async def records(bootstrap: str, topic: str) -> AsyncIterator[tuple[bytes, bytes | None]]:
    """Yield the key and value of every committed record of a topic, in order within each partition."""
    reader: Any = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, isolation_level="read_committed"
    )
    await reader.start()
    try:
        places = await discover_partitions(reader, topic)
        reader.assign(places)
        await reader.seek_to_beginning(*places)
        ends = await reader.end_offsets(places)
        left = {place for place in places if ends[place]}
        while left:
            for fetched in (await reader.getmany(timeout_ms=200, max_records=5_000)).values():
                for record in fetched:
                    yield record.key or b"", record.value
            left = {place for place in left if await reader.position(place) < ends[place]}
    finally:
        await reader.stop()


async def ends(bootstrap: str, topic: str) -> dict[TopicPartition, int]:
    """Return the end offset of each partition of a topic; nothing while the topic does not exist."""
    reader: Any = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await reader.start()
    try:
        return dict(await reader.end_offsets(await discover_partitions(reader, topic)))
    finally:
        await reader.stop()


def _canonical(value: bytes) -> bytes:
    try:
        return encode(EMAIL_STATES, decode(EMAIL_STATES, value))
    except Undecodable as error:
        return f"no state: {error}: ".encode() + value


def _text(states: Mapping[bytes, bytes], key: bytes) -> str:
    return states[key].decode(errors="replace") if key in states else "absent"
