"""Interrupt Kafka or Postgres: no lost message is reported as accepted, and opens are kept in the spool."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from pipeline.content import tokens
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.settings import Settings
from tests.support.fasttrack import message
from tests.support.gateway import Gateway, gateway
from tests.support.kafka_proxy import kafka_proxy
from tests.support.seeing import records, until
from topics import ids
from topics.registry import DELIVERY_EVENTS, SEND_REQUESTS

EMAIL = ids.email_id("acme", "fasttrack", "one")
PERSON = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.3.0"}

CONFIRMED = 'mailfold_appends_total{result="confirmed",topic="delivery-events"}'


def pixel(settings: Settings) -> str:
    return f"/o/{tokens.pixel_token(Signer(secret_ring(settings), 'track'), EMAIL)}.gif"


async def test_unavailable_log_is_a_503_and_the_repeat_is_accepted_once(settings: Settings) -> None:
    async with kafka_proxy(settings.kafka_bootstrap) as proxy:
        async with gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.5) as served:
            assert (await served.post([message("before")])).status_code == 200
            proxy.away()
            answer = await served.post([message("one"), message("two")])
            assert answer.status_code == 503
            assert set(answer.json()) == {"error", "code", "where"}
            assert answer.headers["Retry-After"]
            proxy.back()
            await until(lambda: _accepts(served.post([message("one"), message("two")]), {"one", "two"}))
        requests = [record for *_, record in await records(settings, SEND_REQUESTS)]
        assert {request.identity for request in requests} == {"before", "one", "two"}
        assert {request.email_id for request in requests if request.identity == "one"} == {EMAIL}


async def _problems_are(served: Gateway, names: set[str]) -> bool:
    return set((await served.http.get("/readyz")).json()["problems"]) == names


async def _metric_equals(served: Gateway, sample: str, value: float) -> bool:
    return await served.metric(sample) == value


async def _accepts(posting: object, wanted: set[str]) -> bool:
    answer = await posting  # type: ignore[misc]  # a coroutine of httpx
    return answer.status_code == 200 and {each["id"] for each in answer.json()["successful"]} == wanted


async def test_successful_messages_are_on_the_log_while_it_is_interrupted(settings: Settings) -> None:
    successful: set[str] = set()
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as served,
    ):

        async def post(start: int) -> None:
            answer = await served.post([message(f"m{number}") for number in range(start, start + 50)])
            assert answer.status_code in (200, 503)
            if answer.status_code == 200:
                assert sum(map(len, answer.json().values())) == 50
                successful.update(each["email_id"] for each in answer.json()["successful"])

        for start in range(0, 1_000, 50):
            posting = asyncio.create_task(post(start))
            await asyncio.sleep(0.003 * (start % 7))
            proxy.away()
            await asyncio.sleep(0.01 * (start % 5))
            proxy.back()
            await posting
    assert successful
    assert successful <= {record.email_id for *_, record in await records(settings, SEND_REQUESTS)}


async def test_503_hides_invalid_messages_unless_all_are_invalid(settings: Settings) -> None:
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as served,
    ):
        proxy.away()
        assert (await served.post([message("one"), 5])).status_code == 503
        assert (await served.post([5])).json()["failed"] == [{"id": None, "error": "[0]: expected object, got int"}]
        proxy.back()


async def test_unavailable_postgres_is_a_503_and_reported(settings: Settings, postgres_url: str) -> None:
    async with gateway(settings) as served:
        assert (await served.post([message("before")])).status_code == 200
        name = settings.database_url.get_secret_value().rpartition("/")[2]
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute(f"alter database {name} allow_connections false")
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
            answer = await served.post([message("one")])
            assert answer.status_code == 503
            ready = await served.http.get("/readyz")
            assert ready.status_code == 503
            assert set(ready.json()["problems"]) == {"postgres"}
            assert (await served.http.get("/healthz")).status_code == 200
            assert await served.metric("mailfold_postgres_up") == 0
            admin.execute(f"alter database {name} allow_connections true")
        await until(lambda: _accepts(served.post([message("one")]), {"one"}))


async def test_opens_during_a_log_outage_are_spooled_and_appended_later(settings: Settings) -> None:
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.5) as served,
    ):
        await served.http.get(pixel(settings), headers=PERSON)
        await until(lambda: _metric_equals(served, CONFIRMED, 1))
        # On a busy machine the first append may already have gone through the spool.
        await until(lambda: _metric_equals(served, "mailfold_spool_events", 0))
        before = await served.metric("mailfold_spooled_total")
        proxy.away()
        for _ in range(5):
            answer = await served.http.get(pixel(settings), headers=PERSON)
            assert (answer.status_code, len(answer.content)) == (200, 43)
        await until(lambda: _metric_equals(served, "mailfold_spooled_total", before + 5))
        assert await served.metric("mailfold_spool_events") == 5
        await until(lambda: _problems_are(served, {"kafka"}))  # the last result is repeated for a second
        proxy.back()
        await until(lambda: _is_empty(settings.data_dir / "spool"))
        assert await served.metric("mailfold_spool_events") == 0
    events = [event for *_, event in await records(settings, DELIVERY_EVENTS)]
    assert len({event.event_id for event in events}) == 6
    assert {event.email_id for event in events} == {EMAIL}


async def test_spool_of_an_ended_gateway_is_appended_by_the_next(settings: Settings) -> None:
    spool = settings.data_dir / "spool"
    async with kafka_proxy(settings.kafka_bootstrap) as proxy:
        async with gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as served:
            proxy.away()
            for _ in range(3):
                await served.http.get(pixel(settings), headers=PERSON)
        assert not _is_empty(spool)
    # As after a crash in the middle of a write, whose event was never confirmed.
    last_file = sorted(spool.glob("*.events"))[-1]
    last_file.write_bytes(last_file.read_bytes() + b'{"type":"delivery-ev')
    async with gateway(settings):
        await until(lambda: _is_empty(spool))
    events = [event for *_, event in await records(settings, DELIVERY_EVENTS)]
    assert len({event.event_id for event in events}) == 3


async def test_unreadable_spool_file_is_set_aside_and_later_events_are_appended(settings: Settings) -> None:
    spool = settings.data_dir / "spool"
    spool.mkdir()
    (spool / "0.events").write_bytes(b"not an event\n")
    async with gateway(settings) as served:
        await until(lambda: _is_empty(spool))
        assert (spool / "0.unreadable").read_bytes() == b"not an event\n"
        await served.http.get(pixel(settings), headers=PERSON)
        await until(lambda: _metric_equals(served, CONFIRMED, 1))
    assert len({event.event_id for *_, event in await records(settings, DELIVERY_EVENTS)}) == 1


def _is_empty(spool: Path) -> bool:
    return not list(spool.glob("*.events"))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_unwritable_spool_is_counted_and_pixels_are_still_answered(settings: Settings, method: str) -> None:
    (settings.data_dir / "spool").write_text("a file where the folder should be")
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as served,
    ):
        proxy.away()
        answer = await served.http.request(method, pixel(settings), headers=PERSON)
        assert answer.status_code == 200
        await until(lambda: _metric_equals(served, "mailfold_spool_lost_total", 1 if method == "GET" else 0))
        proxy.back()
