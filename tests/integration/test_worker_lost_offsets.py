"""The log is not where the group's offsets say: records expired unread, or a topic was truncated or recreated."""

import secrets
import time
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from pipeline.runtime.kafka import topic_admin
from pipeline.settings import Settings
from tests.support.caught_up import CaughtUp
from tests.support.mirror import drop, mirror
from tests.support.seeing import until
from tests.support.worker import (
    FACT_TOPIC_NAMES,
    Worker,
    assert_folded,
    dump,
    facts_on,
    feed,
    lives,
    plain_fold,
    worker_group_consumer,
)
from topics.codec import decode
from topics.registry import EMAIL_STATES, PROVIDER_WEBHOOKS, TOPICS
from topics.states import EmailState


def partitions(settings: Settings) -> list[TopicPartition]:
    names = (*FACT_TOPIC_NAMES, PROVIDER_WEBHOOKS.name)
    return [TopicPartition(settings.topic(name), number) for name in names for number in range(settings.partitions)]


async def remove_all(settings: Settings) -> None:
    """As retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    await admin.start()
    try:
        await admin.delete_records({tp: RecordsToDelete(before_offset=-1) for tp in partitions(settings)})
    finally:
        await admin.close()


async def commit(settings: Settings, offset: int) -> None:
    """As if the log had been longer once."""
    async with worker_group_consumer(settings) as consumer:
        consumer.assign(partitions(settings))
        await consumer.commit(dict.fromkeys(partitions(settings), offset))


async def states(settings: Settings) -> dict[str, EmailState]:
    stored = await dump(settings, EMAIL_STATES)
    return {(key or b"").decode(): decode(EMAIL_STATES, value) for _, key, value in stored}


async def test_expired_unread_records_are_logged_and_the_rest_is_folded(settings: Settings, tmp_path: Path) -> None:
    with Worker(settings, tmp_path / "one") as worker:
        await feed(settings, lives(20, seed=1))
        known = await assert_folded(settings)
        assert worker.terminate() == 0
        await feed(settings, lives(20, seed=2))
        await remove_all(settings)
        await feed(settings, lives(20, seed=3))
        worker.start()
        await CaughtUp(settings).group("mailfold", *FACT_TOPIC_NAMES)
        left = plain_fold(await facts_on(settings))
        assert await states(settings) == known | left
        assert worker.terminate() == 0
    assert len(left) == 20
    assert "removed from the log before they were read" in worker.log.read_text()


async def test_log_shorter_than_the_commit_is_read_again(settings: Settings, tmp_path: Path) -> None:
    """A topic that was made anew, or a cluster that was restored; a fact that is read again changes nothing."""
    await feed(settings, lives(20, seed=1))
    expected = plain_fold(await facts_on(settings))
    await commit(settings, 1_000_000)

    async def folded() -> bool:
        return await states(settings) == expected

    with Worker(settings, tmp_path / "one") as worker:
        await until(folded, patience=30)
        assert worker.terminate() == 0
    assert "committed offset is beyond the log's end" in worker.log.read_text()


async def test_store_that_is_ahead_of_the_log_is_recovered_from_it(settings: Settings, tmp_path: Path) -> None:
    """Kafka was restored to an older moment, and the worker kept its disk."""
    older = settings.model_copy(update={"topic_prefix": f"t{secrets.token_hex(6)}-"})
    with Worker(settings, tmp_path / "one") as worker:
        await feed(settings, lives(20, seed=1))
        await assert_folded(settings)
        cut_at = time.time_ns() // 1_000_000
        await feed(settings, lives(20, seed=2))
        await assert_folded(settings)
        assert worker.terminate() == 0
    await mirror(settings, older, until_ms=cut_at)
    await drop(settings)
    await until(lambda: is_gone(settings), 20)
    await mirror(older, settings)
    await drop(older)
    with Worker(settings, tmp_path / "one") as worker:
        await feed(settings, lives(20, seed=3))
        assert len(await assert_folded(settings)) == 40
        assert worker.terminate() == 0
    assert "store has more than the log, removed" in worker.log.read_text()


async def is_gone(settings: Settings) -> bool:
    missing = [line for line in await topic_admin.differences(settings) if "doesn't exist" in line]
    return len(missing) == len(TOPICS)


async def test_store_of_another_log_is_recovered_from_this_one(settings: Settings, tmp_path: Path) -> None:
    """This log is longer, so nothing but its name and cluster tells that the store has other emails' states."""
    other = settings.model_copy(update={"topic_prefix": f"t{secrets.token_hex(6)}-"})
    with Worker(settings, tmp_path / "one") as worker:
        await feed(settings, lives(20, seed=1))
        await assert_folded(settings)
        assert worker.terminate() == 0
    await topic_admin.create(other)
    try:
        with Worker(other, tmp_path / "two") as worker:
            await feed(other, lives(60, seed=2))
            await assert_folded(other)
            assert worker.terminate() == 0
        with Worker(other, tmp_path / "one") as worker:
            await feed(other, lives(20, seed=1))
            assert len(await assert_folded(other)) == 80
            assert worker.terminate() == 0
        assert "store is a copy of another log, removed" in worker.log.read_text()
    finally:
        await drop(other)
