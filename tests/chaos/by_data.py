"""Scenarios with invalid records on the log, and with clocks that are an hour off."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiokafka
import msgspec

from tests.chaos.oracle import FACT_TOPICS
from tests.chaos.play import Play, Skipped
from tests.chaos.scenarios import scenario

SHARE = 0.01


@scenario("one record in a hundred of every topic is poison: bad, empty, unknown, huge, deep")
async def poison(play: Play) -> None:
    count = max(12, int(SHARE * 5 * play.size.emails))

    async def faults() -> None:
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=play.world.bootstrap, max_request_size=1_000_000)
        await producer.start()
        try:
            for nth in range(count):
                for topic in (*FACT_TOPICS, "provider-webhooks"):
                    await _poison(play, producer, topic, nth)
                await asyncio.sleep(12 / count)
        finally:
            await producer.stop()

    await play.while_posting(12, faults())
    play.notes.append(f"{len(play.world.ledger.poison)} poisoned records")


async def _poison(play: Play, producer: Any, topic: str, nth: int) -> None:
    kinds = _webhooks() if topic == "provider-webhooks" else _facts(topic)
    value = kinds[nth % len(kinds)]
    known = list(play.world.ledger.accepted.values())
    # Mostly with the key of a real email, whose other facts must not be affected.
    key = play.dice.choice(known) if known and play.dice.random() < 0.7 else f"nobody-{nth}"
    sent = await producer.send_and_wait(play.world.prefix + topic, value, key=key.encode())
    play.world.ledger.poison.append((topic, sent.partition, sent.offset))


def _facts(topic: str) -> list[bytes | None]:
    tag = {"send-requests": "send-request", "provider-acks": "acked"}.get(topic, topic.removesuffix("s"))
    email = "00000000-0000-4000-8000-000000000000"
    return [
        b'{"type": "',
        b"",
        None,
        json.dumps({"type": "love-letter/1", "email_id": email}).encode(),
        json.dumps({"type": f"{tag}/1", "email_id": email, "nobody_knows": 1}).encode(),
        json.dumps({"type": f"{tag}/1", "email_id": email, "x": "y" * 899_000}).encode(),
        f'{{"type": "{tag}/1", "native": {"[" * 100_000}{"]" * 100_000}}}'.encode(),
        b"\xff\xfe\x00" * 100,
        b"null",
        json.dumps([tag] * 1000).encode(),
    ]


def _webhooks() -> list[bytes | None]:
    deep = b"[" * 100_000 + b"]" * 100_000
    return [
        b"\xc1",
        b"",
        None,
        _webhook(b"not JSON"),
        _webhook(b"[]", type="love-letter/1"),
        _webhook(b"[]", kind="carrier pigeon"),
        _webhook(b'[{"event": "' + b"y" * 890_000),
        _webhook(b'[{"event": ' + deep + b"}]"),
        _webhook(b'{"event": "delivered"}'),
    ]


def _webhook(body: bytes, **other: str) -> bytes:
    fields = {"type": "raw-webhook/1", "webhook_id": "w", "provider": "sandbox", "kind": "sandbox", "received_at": 1}
    return msgspec.msgpack.encode({**fields, "headers": [], "body": body, **other})


def _clocks() -> Mapping[str, Mapping[str, str]]:
    """Return the environment for two roles an hour ahead and two an hour behind; monotonic clocks are unchanged."""
    found = sorted(Path("/usr").glob("lib*/**/faketime/libfaketimeMT.so.1"))
    if not found:
        raise Skipped("libfaketime is not installed (Debian: apt-get install faketime)")
    off = {"LD_PRELOAD": str(found[0]), "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    ahead, behind = {**off, "FAKETIME": "+1h"}, {**off, "FAKETIME": "-1h"}
    return {"worker": ahead, "dispatch": behind, "project": behind, "emit": ahead}


@scenario("clocks an hour off: worker and emitter ahead, dispatcher and projector behind", role_env=_clocks)
async def clocks(play: Play) -> None:
    await play.while_posting(play.size.kills * 1.5, play.kill_some(play.size.kills, 1.5))


def _one_clock() -> Mapping[str, Mapping[str, str]]:
    clock = _clocks()
    return {"gateway": clock["worker"]}


@scenario("the gateway's clock is an hour ahead of everybody's", role_env=_one_clock)
async def clock_gateway(play: Play) -> None:
    await play.while_posting(6, play.kill_some(2, 2, "gateway", "worker"))
