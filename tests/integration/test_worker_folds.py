"""The worker on a real broker: facts in, states and changes out; poison aside; an orderly end."""

import json
import socket
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaProducer

from pipeline.content.tokens import message_id_header
from pipeline.runtime.kafka.log import append_all, open_kafka_log
from pipeline.runtime.ports import LogEntry
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.support.caught_up import CaughtUp
from tests.support.echoes import echoed
from tests.support.seeing import on, until
from tests.support.worker import NOW, Worker, append_raw, assert_folded, committed_something, dead_letters, feed, lives
from topics.dead_letters import MAX_VALUE_BYTES
from topics.events import DeliveryEvent, EventKind
from topics.record import EmailId
from topics.registry import DELIVERY_EVENTS, PROVIDER_ACKS, PROVIDER_WEBHOOKS, SEND_REQUESTS, Topic
from topics.webhooks import RawWebhook

EMAIL_ID = EmailId("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b")


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Worker:
    return Worker(settings, tmp_path / "one")


async def test_facts_of_all_topics_become_the_states_and_changes_of_a_plain_fold(
    settings: Settings, worker: Worker
) -> None:
    with worker:
        await feed(settings, lives(200, seed=1), pieces=7)
        await assert_folded(settings)
        assert worker.terminate() == 0


async def test_facts_before_the_first_start_are_folded(settings: Settings, worker: Worker) -> None:
    await feed(settings, lives(100, seed=2))
    with worker:
        await assert_folded(settings)


async def test_a_webhook_becomes_events_and_what_is_not_ours_becomes_dead_letters(
    settings: Settings, worker: Worker
) -> None:
    signer = Signer(secret_ring(settings), "message-id")
    events = [
        {"event": "delivered", "timestamp": 1, "sg_event_id": "1", **echoed(EMAIL_ID, secret_ring(settings))},
        {"event": "open", "timestamp": 2, "sg_event_id": "2", "smtp-id": message_id_header(signer, EMAIL_ID, "m.test")},
        {"event": "open", "timestamp": 3, "sg_event_id": "3", "smtp-id": "<somebody@else.test>"},
        {"no": "event"},
    ]
    webhooks = [
        RawWebhook(
            webhook_id=str(number), provider="main", kind="sendgrid", received_at=NOW, headers=(), body=body.encode()
        )
        for number, body in enumerate((json.dumps(events), "no JSON"))
    ]
    with worker:
        async with open_kafka_log(settings) as log:
            await append_all(log, [LogEntry(PROVIDER_WEBHOOKS, None, webhook) for webhook in webhooks])
        await until(lambda: on(settings, DELIVERY_EVENTS), 60)
        states = await assert_folded(settings)
    told: list[DeliveryEvent] = await on(settings, DELIVERY_EVENTS)
    assert {(event.event_id, event.kind) for event in told} == {
        ("sendgrid:1", EventKind.DELIVERED),
        ("sendgrid:2", EventKind.OPENED),
    }
    assert list(states) == [EMAIL_ID]
    letters = await dead_letters(settings)
    assert sorted(letter.reason for letter in letters) == ["uncorrelated", "unrecognised", "unrecognised"]
    assert {letter.source.topic for letter in letters} == {"provider-webhooks"}


async def append_compressed(settings: Settings, topic: Topic, key: bytes, value: bytes) -> None:
    """As somebody else might."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap, compression_type="gzip", max_request_size=4_000_000
    )
    await producer.start()
    try:
        await producer.send_and_wait(settings.topic(topic.name), value, key=key)
    finally:
        await producer.stop()


async def test_undecodable_facts_become_dead_letters_with_their_places(settings: Settings, worker: Worker) -> None:
    await append_raw(settings, DELIVERY_EVENTS, EMAIL_ID.encode(), b"no JSON", b"{}", None, b"\xff")
    # Brokers look at a batch as it is sent; a letter about this one, whole, would fit in no batch of ours.
    await append_compressed(settings, DELIVERY_EVENTS, EMAIL_ID.encode(), b"x" * 3_000_000)
    await append_raw(settings, PROVIDER_ACKS, None, b'{"type":"acked/1"}')
    fine = lives(30, seed=3)
    misplaced = next(entry for entry in fine if entry.topic is SEND_REQUESTS)
    async with open_kafka_log(settings) as log:
        await append_all(log, [LogEntry(SEND_REQUESTS, "another key", misplaced.record)])
    with worker:
        await feed(settings, fine)
        await assert_folded(settings)
    letters = await dead_letters(settings)
    reasons = sorted((letter.source.topic, letter.reason) for letter in letters)
    assert reasons == [
        *[("delivery-events", "undecodable")] * 5,
        ("provider-acks", "undecodable"),
        ("send-requests", "misplaced"),
    ]
    assert {letter.value for letter in letters if letter.source.topic == "delivery-events"} == {
        *(b"no JSON", b"{}", b"\xff", b"x" * MAX_VALUE_BYTES),
        None,
    }
    assert len({letter.source for letter in letters}) == len(letters)


async def test_worker_halts_when_most_facts_are_undecodable(settings: Settings, worker: Worker) -> None:
    await append_raw(settings, DELIVERY_EVENTS, b"k", *[b"written by a stranger"] * 700)
    with worker:
        assert worker.process.wait(40) == 1
    assert "can't be understood" in worker.log.read_text()


async def test_sigterm_under_load_ends_the_worker_and_nothing_is_lost(settings: Settings, worker: Worker) -> None:
    await feed(settings, lives(1500, seed=4))
    with worker:
        await until(lambda: committed_something(settings), 60)
        assert worker.terminate() == 0
        worker.start()
        await assert_folded(settings)


async def test_the_worker_opens_no_port(settings: Settings, worker: Worker) -> None:
    with worker:
        await feed(settings, lives(3, seed=5))
        await CaughtUp(settings).group("mailfold", SEND_REQUESTS.name)
        connections = psutil.Process(worker.process.pid).net_connections()
        assert [one for one in connections if one.status == psutil.CONN_LISTEN] == []
        assert [one for one in connections if one.type == socket.SOCK_DGRAM] == []


async def test_worker_waits_for_unreachable_kafka_with_one_message_until_sigterm(
    settings: Settings, tmp_path: Path
) -> None:
    with Worker(settings, tmp_path / "one", KAFKA_BOOTSTRAP="127.0.0.1:1") as worker:
        await until(lambda: "does not answer" in worker.log.read_text(), 40)
        assert worker.process.poll() is None
        worker.process.terminate()
        assert worker.process.wait(10) == 0
    assert worker.log.read_text().count("KAFKA_BOOTSTRAP=127.0.0.1:1 does not answer") == 1
