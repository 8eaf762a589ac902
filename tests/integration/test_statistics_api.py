"""`GET /api/v1/statistics` over real HTTP, on rollups that the real sink wrote."""

import functools
import random
from typing import Any

import httpx
import psycopg
import pytest

from pipeline import admin
from pipeline.admin import KeyLimits, KeyScope
from pipeline.runtime.secrets.signing import AddressHasher, hash_address
from pipeline.settings import Settings
from projections import statistics_queries
from projections.metric_definitions import COUNT_METRICS
from projections.sink import ChangeBatch, Sink
from tests.conftest import RING
from tests.support.changes import T0, Log, lives
from tests.support.gateway import Gateway, gateway
from topics.changes import EmailChange, Tick

SINK = Sink(functools.partial(hash_address, AddressHasher(RING)))
DAY_MS = 86_400_000
SPAN = {"from": str(T0 - T0 % DAY_MS), "to": str(T0 - T0 % DAY_MS + 2 * DAY_MS)}


async def project(served: Gateway, log: Log) -> None:
    now = max(served.rt.clock(), *(change.recorded_at for change in log.changes))
    changes: list[EmailChange | Tick] = [*log.changes, Tick(recorded_at=now + 1)]
    async with served.rt.pool.connection() as connection:
        await SINK.start(connection, log.partition, 0, 0)
        await SINK.apply(connection, ChangeBatch(log.partition, 0, len(changes), changes))


async def ask(served: Gateway, key: str = "", **parameters: str) -> httpx.Response:
    headers = {"X-Api-Key": key or served.key}
    return await served.http.get("/api/v1/statistics", params=SPAN | parameters, headers=headers)


async def answered(served: Gateway, **parameters: str) -> dict[str, Any]:
    response = await ask(served, **parameters)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_groups_add_up_to_the_totals_in_both_views(settings: Settings) -> None:
    async with gateway(settings) as served:
        await project(served, lives(31, 60, campaigns=5))
        metrics = "accepted,delivered,bounced,opened_human,conversions_owed,delivery_rate,time_to_deliver"
        totals = (await answered(served, metrics=metrics))["totals"]
        assert totals["accepted"]["value"] == 60
        for view in ("cohort", "event"):
            for group_by in ("day", "brand", "recipient_domain", "hour,provider", "activity_id,action_group_id"):
                answer = await answered(served, metrics=metrics, group_by=group_by, view=view)
                assert answer["totals"]["accepted"]["value"] == 60
                for name in ("accepted", "delivered", "bounced", "opened_human", "conversions_owed"):
                    rows = sum(row["metrics"][name]["value"] for row in answer["rows"])
                    assert rows == answer["totals"][name]["value"] == totals[name]["value"]
                assert answer["totals"]["delivery_rate"] == totals["delivery_rate"]
                assert answer["totals"]["time_to_deliver"] == totals["time_to_deliver"]


async def test_filters_and_groups_say_the_same(settings: Settings) -> None:
    async with gateway(settings) as served:
        await project(served, lives(32, 60, campaigns=5))
        for dimension in ("brand", "provider", "recipient_domain", "activity_id", "dialect"):
            for row in (await answered(served, group_by=dimension))["rows"]:
                if value := row["group"][dimension]:
                    assert (await answered(served, **{dimension: value}))["totals"] == row["metrics"]


@pytest.mark.parametrize("seed", range(3))
async def test_link_of_a_figure_lists_exactly_the_emails_that_it_counts(settings: Settings, seed: int) -> None:
    chance = random.Random(seed)
    linked = [name for name, metric in COUNT_METRICS.items() if metric.facts is not None]
    followed = 0
    async with gateway(settings) as served:
        await project(served, lives(50 + seed, 60, campaigns=5))
        for _ in range(4):
            group_by = chance.sample(["brand", "provider", "recipient_domain", "activity_id", "dialect"], 2)
            period = chance.choice(["hour", "day", "month"])
            metrics = ",".join(chance.sample(linked, 3))
            answer = await answered(served, metrics=metrics, group_by=",".join([period, *group_by]))
            for row in [*chance.sample(answer["rows"], min(4, len(answer["rows"]))), {"metrics": answer["totals"]}]:
                for figure in row["metrics"].values():
                    if figure["emails"] is not None:
                        url = f"{figure['emails']}&count=exact&limit=1"
                        listing = (await served.http.get(url, headers={"X-Api-Key": served.key})).json()
                        assert (listing["count"], listing["count_kind"]) == (figure["value"], "exact"), url
                        followed += 1
    assert followed > 20


async def test_figures_that_no_filter_describes_have_no_link(settings: Settings) -> None:
    async with gateway(settings) as served:
        await project(served, lives(35, 20, campaigns=5))
        by_event = await answered(served, metrics="delivered", view="event")
        assert by_event["totals"]["delivered"]["emails"] is None
        totals = (await answered(served, metrics="attempted,opened,accepted"))["totals"]
        assert [totals[name]["emails"] is None for name in ("attempted", "opened", "accepted")] == [True, True, False]
        for row in (await answered(served, metrics="accepted", group_by="recipient_domain"))["rows"]:
            is_other = row["group"]["recipient_domain"] == "other"
            assert (row["metrics"]["accepted"]["emails"] is None) == is_other


async def test_other_tenants_emails_are_not_counted(settings: Settings) -> None:
    async with gateway(settings) as served:
        await project(served, lives(33, 20, tenant="other"))
        assert (await answered(served))["totals"]["accepted"]["value"] == 0


async def test_key_of_one_brand_counts_that_brand_alone(settings: Settings) -> None:
    async with gateway(settings) as served:
        await project(served, lives(34, 40))
        limits = KeyLimits(frozenset({KeyScope.STATISTICS_READ}), brand="1")
        key = await admin.add_key(served.rt.pool, "acme", limits=limits)
        of_brand = (await answered(served, brand="1"))["totals"]
        own = await ask(served, key)
        assert own.json()["totals"] == of_brand
        assert (await ask(served, key, brand="1")).json()["totals"] == of_brand
        assert (await ask(served, key, brand="2")).status_code == 403
        assert 0 < of_brand["accepted"]["value"] <= 40


async def test_errors_name_the_parameter(settings: Settings) -> None:
    async with gateway(settings) as served:
        for parameters in ({"metrics": "love"}, {"tz": "Mars"}, {"from": "x"}, {"colour": "red"}):
            response = await ask(served, **parameters)
            assert response.status_code == 400
            assert response.headers["content-type"] == "application/problem+json"
            assert next(iter(parameters)) in response.text
        twice = await served.http.get("/api/v1/statistics?tz=UTC&tz=UTC", headers={"X-Api-Key": served.key})
        assert twice.status_code == 400


async def test_question_that_takes_too_long_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(connection: psycopg.AsyncConnection[Any], _: object) -> list[Any]:
        await connection.execute("select pg_sleep(5)")
        return []

    monkeypatch.setattr(statistics_queries, "STATEMENT_TIMEOUT", "20ms")
    monkeypatch.setattr(statistics_queries, "_read_groups", sleep)
    async with gateway(settings) as served:
        response = await ask(served)
        assert response.status_code == 504
        assert "longer than" in response.text


async def test_definitions_name_every_metric(settings: Settings) -> None:
    async with gateway(settings) as served:
        response = await served.http.get("/api/v1/statistics/definitions", headers={"X-Api-Key": served.key})
        definitions = response.json()
        rates = {rate["name"]: rate for rate in definitions["rates"]}
        assert rates["complaint_rate"]["thresholds"] == [0.001, 0.003]
        assert rates["complaint_rate"]["denominator"] == "delivered"
        answer = await answered(served, metrics=",".join(each["name"] for each in definitions["counts"]))
        assert len(answer["totals"]) == len(definitions["counts"])
