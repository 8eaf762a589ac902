"""The log or Postgres goes away: nothing is answered as taken that isn't, and opens outlive it in the spool."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from pipeline.content import tokens
from pipeline.runtime.signing import Signer
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
    return f"/o/{tokens.pixel_token(Signer(settings.secret.get_secret_value(), 'track'), EMAIL)}.gif"


async def test_a_log_that_does_not_answer_is_a_503_and_the_repeat_is_taken_once(settings: Settings) -> None:
    async with kafka_proxy(settings.kafka_bootstrap) as proxy:
        async with gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.5) as world:
            assert (await world.post([message("before")])).status_code == 200
            proxy.away()
            answer = await world.post([message("one"), message("two")])
            assert answer.status_code == 503
            assert set(answer.json()) == {"error", "code", "where"}
            assert answer.headers["Retry-After"]
            proxy.back()
            await until(lambda: _taken(world.post([message("one"), message("two")]), {"one", "two"}))
        found = [record for *_, record in await records(settings, SEND_REQUESTS)]
        assert {record.identity for record in found} == {"before", "one", "two"}
        assert {record.email_id for record in found if record.identity == "one"} == {EMAIL}


async def _reached(world: Gateway, sample: str, value: float) -> bool:
    return await world.metric(sample) == value


async def _taken(posting: object, wanted: set[str]) -> bool:
    answer = await posting  # type: ignore[misc]  # a coroutine of httpx
    return answer.status_code == 200 and {each["id"] for each in answer.json()["successful"]} == wanted


async def test_what_is_answered_successful_while_the_log_comes_and_goes_is_on_it(settings: Settings) -> None:
    said: set[str] = set()
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as world,
    ):

        async def post(start: int) -> None:
            answer = await world.post([message(f"m{number}") for number in range(start, start + 50)])
            assert answer.status_code in (200, 503)
            if answer.status_code == 200:
                assert sum(map(len, answer.json().values())) == 50
                said.update(each["email_id"] for each in answer.json()["successful"])

        for start in range(0, 1_000, 50):
            posting = asyncio.create_task(post(start))
            await asyncio.sleep(0.003 * (start % 7))
            proxy.away()
            await asyncio.sleep(0.01 * (start % 5))
            proxy.back()
            await posting
    assert said
    assert said <= {record.email_id for *_, record in await records(settings, SEND_REQUESTS)}


async def test_bad_messages_are_not_told_while_nothing_can_be_taken(settings: Settings) -> None:
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as world,
    ):
        proxy.away()
        assert (await world.post([message("one"), 5])).status_code == 503
        assert (await world.post([5])).json()["failed"] == [{"id": None, "error": "[0]: expected object, got int"}]
        proxy.back()


async def test_postgres_away_is_a_503_and_reported(settings: Settings, postgres_url: str) -> None:
    async with gateway(settings) as world:
        assert (await world.post([message("before")])).status_code == 200
        name = settings.database_url.get_secret_value().rpartition("/")[2]
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute(f"alter database {name} allow_connections false")
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
            answer = await world.post([message("one")])
            assert answer.status_code == 503
            ready = await world.http.get("/readyz")
            assert ready.status_code == 503
            assert set(ready.json()["problems"]) == {"postgres"}
            assert (await world.http.get("/healthz")).status_code == 200
            assert await world.metric("mailfold_postgres_up") == 0
            admin.execute(f"alter database {name} allow_connections true")
        await until(lambda: _taken(world.post([message("one")]), {"one"}))


async def test_opens_while_the_log_is_away_are_answered_kept_and_brought_later(settings: Settings) -> None:
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.5) as world,
    ):
        await world.http.get(pixel(settings), headers=PERSON)
        await until(lambda: _reached(world, CONFIRMED, 1))
        # A busy machine's first append may have taken the way by the spool already.
        await until(lambda: _reached(world, "mailfold_spool_events", 0))
        before = await world.metric("mailfold_spooled_total")
        proxy.away()
        for _ in range(5):
            answer = await world.http.get(pixel(settings), headers=PERSON)
            assert (answer.status_code, len(answer.content)) == (200, 43)
        await until(lambda: _reached(world, "mailfold_spooled_total", before + 5))
        assert await world.metric("mailfold_spool_events") == 5
        assert (await world.http.get("/readyz")).json()["problems"].keys() == {"kafka"}
        proxy.back()
        await until(lambda: _emptied(settings.data_dir / "spool"))
        assert await world.metric("mailfold_spool_events") == 0
    events = [event for *_, event in await records(settings, DELIVERY_EVENTS)]
    assert len({event.event_id for event in events}) == 6
    assert {event.email_id for event in events} == {EMAIL}


async def test_a_spool_left_by_a_gateway_that_ended_is_brought_by_the_next(settings: Settings) -> None:
    spool = settings.data_dir / "spool"
    async with kafka_proxy(settings.kafka_bootstrap) as proxy:
        async with gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as world:
            proxy.away()
            for _ in range(3):
                await world.http.get(pixel(settings), headers=PERSON)
        assert not _emptied(spool)
    # As after a crash in the middle of a write: what was torn was never confirmed to anybody.
    left = sorted(spool.glob("*.events"))[-1]
    left.write_bytes(left.read_bytes() + b'{"type":"delivery-ev')
    async with gateway(settings):
        await until(lambda: _emptied(spool))
    events = [event for *_, event in await records(settings, DELIVERY_EVENTS)]
    assert len({event.event_id for event in events}) == 3


async def test_a_spool_file_nobody_understands_is_put_aside_and_the_rest_is_brought(settings: Settings) -> None:
    spool = settings.data_dir / "spool"
    spool.mkdir()
    (spool / "0.events").write_bytes(b"not an event\n")
    async with gateway(settings) as world:
        await until(lambda: _emptied(spool))
        assert (spool / "0.unreadable").read_bytes() == b"not an event\n"
        await world.http.get(pixel(settings), headers=PERSON)
        await until(lambda: _reached(world, CONFIRMED, 1))
    assert len({event.event_id for *_, event in await records(settings, DELIVERY_EVENTS)}) == 1


def _emptied(spool: Path) -> bool:
    return not list(spool.glob("*.events"))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_spool_that_cannot_be_written_is_counted_and_still_answered(settings: Settings, method: str) -> None:
    (settings.data_dir / "spool").write_text("a file where the folder should be")
    async with (
        kafka_proxy(settings.kafka_bootstrap) as proxy,
        gateway(settings, kafka_bootstrap=proxy.bootstrap, append_timeout=0.3) as world,
    ):
        proxy.away()
        answer = await world.http.request(method, pixel(settings), headers=PERSON)
        assert answer.status_code == 200
        await until(lambda: _reached(world, "mailfold_spool_lost_total", 1 if method == "GET" else 0))
        proxy.back()
