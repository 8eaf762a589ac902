"""Kills, crashes, lost disks and moving partitions: afterwards states and changes equal a plain fold of the facts."""

import asyncio
import functools
import json
import random
import shutil
import signal
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from pipeline.runtime.kafka.log import MAX_REQUEST_BYTES, append_all, open_kafka_log
from pipeline.runtime.kafka.topic_admin import new_topic_config
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from tests.support.echoes import echoed
from tests.support.kafka_proxy import kafka_proxy
from tests.support.seeing import on, until
from tests.support.worker import NOW, Worker, assert_folded, committed_something, feed, lives, supervised
from topics.registry import DELIVERY_EVENTS, EMAIL_CHANGES, PROVIDER_WEBHOOKS
from topics.webhooks import RawWebhook


@pytest.mark.parametrize("point", ["fold.in-transaction", "fold.before-store", "fold.before-ack"])
async def test_a_crash_between_two_writes_of_the_fold_loses_nothing(
    point: str, settings: Settings, tmp_path: Path
) -> None:
    armed = tmp_path / "armed"
    armed.touch()
    worker = Worker(settings, tmp_path / "one", MAILFOLD_CRASH_AT=point, MAILFOLD_CRASH_ONCE=str(armed))
    await feed(settings, lives(50, seed=1))
    with worker:
        async with supervised(worker):
            await feed(settings, lives(100, seed=2), pieces=5)
            await assert_folded(settings)
    assert worker.exits == [137]


async def test_a_crash_of_the_normalization_before_its_ack_repeats_events_with_the_same_ids(
    settings: Settings, tmp_path: Path
) -> None:
    armed = tmp_path / "armed"
    armed.touch()
    worker = Worker(
        settings, tmp_path / "one", MAILFOLD_CRASH_AT="normalize.before-ack", MAILFOLD_CRASH_ONCE=str(armed)
    )
    ids = [f"0190a1b2-c3d4-7e5f-8a9b-{number:012}" for number in range(20)]
    bodies = [
        json.dumps(
            [{"event": "open", "timestamp": 1, "sg_event_id": email_id, **echoed(email_id, secret_ring(settings))}]
        )
        for email_id in ids
    ]
    async with open_kafka_log(settings) as log:
        webhooks = [
            RawWebhook(webhook_id=body, provider="p", kind="sendgrid", received_at=NOW, headers=(), body=body.encode())
            for body in bodies
        ]
        await append_all(log, [LogEntry(PROVIDER_WEBHOOKS, None, webhook) for webhook in webhooks])
    with worker:
        async with supervised(worker):
            await until(lambda: on(settings, DELIVERY_EVENTS), 60)
            states = await assert_folded(settings)
    assert worker.exits == [137]
    assert set(states) == set(ids)
    assert {event.event_id for event in await on(settings, DELIVERY_EVENTS)} == {f"sendgrid:{one}" for one in ids}


async def _limit_changes(settings: Settings, size: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        # Altering replaces the whole configuration of the topic.
        config = new_topic_config(EMAIL_CHANGES, settings) | {"max.message.bytes": str(size)}
        name = settings.topic(EMAIL_CHANGES.name)
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, config)])
    finally:
        await admin.close()


async def test_a_log_that_refuses_ends_the_worker_before_it_acknowledges_and_nothing_is_lost(
    settings: Settings, tmp_path: Path
) -> None:
    with Worker(settings, tmp_path / "one") as worker:
        await feed(settings, lives(20, seed=1))
        await assert_folded(settings)
        await _limit_changes(settings, 200)
        await feed(settings, lives(20, seed=2))
        assert worker.process.wait(30) == 1
        assert "did not confirm" in worker.log.read_text()
        await _limit_changes(settings, MAX_REQUEST_BYTES)
        async with supervised(worker):
            await assert_folded(settings)


async def restarts(worker: Worker, count: int) -> bool:
    return len(worker.exits) == count


async def test_kill_9_at_any_moment_loses_nothing(settings: Settings, tmp_path: Path) -> None:
    dice = random.Random(7)
    worker = Worker(settings, tmp_path / "one")
    with worker:
        async with supervised(worker):
            for round_ in range(4):
                await feed(settings, lives(400, seed=round_), pieces=8)
                await until(lambda: committed_something(settings), 60)
                await feed(settings, lives(dice.randrange(300), seed=100 + round_))
                worker.kill()
                await until(functools.partial(restarts, worker, round_ + 1), 60)
            await assert_folded(settings)


async def test_a_lost_disk_is_recovered_from_the_log(settings: Settings, tmp_path: Path) -> None:
    worker = Worker(settings, tmp_path / "one")
    with worker:
        await feed(settings, lives(150, seed=1))
        await assert_folded(settings)
        worker.kill()
        shutil.rmtree(worker.folder)
        # The same emails again: their new facts must meet the states that were lost.
        await feed(settings, lives(150, seed=1)[::3] + lives(20, seed=2))
        worker.start()
        await assert_folded(settings)


@pytest.mark.ci
async def test_an_old_disk_catches_up_with_what_another_worker_wrote(settings: Settings, tmp_path: Path) -> None:
    one, two = Worker(settings, tmp_path / "one"), Worker(settings, tmp_path / "two")
    entries = lives(90, seed=1)
    for worker, share in ((one, entries[::3]), (two, entries[1::3]), (one, entries[2::3])):
        with worker:
            await feed(settings, share)
            await assert_folded(settings)
            worker.terminate()


@pytest.mark.parametrize("orderly", [True, False], ids=["leaves", "is killed"])
async def test_second_worker_takes_over_from_a_stopped_one(orderly: bool, settings: Settings, tmp_path: Path) -> None:
    one, two = Worker(settings, tmp_path / "one"), Worker(settings, tmp_path / "two")
    with one:
        await feed(settings, lives(300, seed=1), pieces=4)
        await until(lambda: committed_something(settings), 60)
        with two:
            async with supervised(two):
                for round_ in range(6):
                    await feed(settings, lives(150, seed=10 + round_), pieces=3)
                await assert_folded(settings)
                await feed(settings, lives(600, seed=20), pieces=4)
                if orderly:
                    assert one.terminate() == 0
                else:
                    one.kill()
                await feed(settings, lives(200, seed=21), pieces=4)
                await assert_folded(settings)
            assert two.exits == []


async def test_a_worker_frozen_past_its_session_writes_nothing_more_and_works_again_afterwards(
    settings: Settings, tmp_path: Path
) -> None:
    """Its successor folds on meanwhile; what the frozen one still has in hand must not land on that."""
    one, two = Worker(settings, tmp_path / "one"), Worker(settings, tmp_path / "two")
    same = lives(400, seed=1)
    with one:
        await feed(settings, same[::2], pieces=4)
        await until(lambda: committed_something(settings), 60)
        await feed(settings, lives(600, seed=2), pieces=4)
        one.process.send_signal(signal.SIGSTOP)
        with two:
            await feed(settings, same[1::2], pieces=4)
            await assert_folded(settings)
            one.process.send_signal(signal.SIGCONT)
            await feed(settings, same[::3] + lives(200, seed=3), pieces=6)
            await assert_folded(settings)
            assert (one.process.poll(), two.process.poll()) == (None, None)
            assert two.terminate() == 0
        await feed(settings, same[::5], pieces=2)
        await assert_folded(settings)
        assert one.terminate() == 0


@pytest.mark.ci
async def test_sigterm_ends_a_worker_whose_brokers_are_silent(settings: Settings, tmp_path: Path) -> None:
    async with kafka_proxy(settings.kafka_bootstrap) as proxy:
        behind = settings.model_copy(update={"kafka_bootstrap": proxy.bootstrap})
        with Worker(behind, tmp_path / "worker") as worker:
            await feed(settings, lives(20, seed=5))
            await assert_folded(settings)  # what is under way would end it by itself, with 1
            proxy.away()
            assert await asyncio.to_thread(worker.terminate) == 0
        assert b"shutdown abandoned" in worker.log.read_bytes()
    with Worker(settings, tmp_path / "worker"):
        await assert_folded(settings)
