"""An email sent through any dialect folds, is found through `/v1/Email/`, and owes conversions to Fast Track alone."""

import json
from typing import Any

import msgspec
import pytest

from pipeline.settings import Settings
from projections.sink import ChangeBatch
from tests.integration.test_history_api import SINK
from tests.support.changes import Log
from tests.support.dialects import BRAND, SURFACES, Surface
from tests.support.gateway import gateway
from tests.support.seeing import records
from tests.support.templates import put
from topics.acks import Acked
from topics.changes import Tick
from topics.events import DeliveryEvent, EventKind
from topics.ids import brand_uuid
from topics.record import EmailId
from topics.registry import SEND_REQUESTS
from topics.requests import SendRequest

BRANDS = {"fasttrack": "12", "email_v1": BRAND, "freshmail": "default", "extrahorizon": "default"}


def life(request: SendRequest, now: int) -> list[Any]:
    own: dict[str, Any] = {"email_id": EmailId(request.email_id), "occurred_at": now, "recorded_at": now}
    return [
        request,
        Acked(event_id="ack", provider="relay", code=250, **own),
        DeliveryEvent(event_id="event", kind=EventKind.DELIVERED, provider="relay", **own),
    ]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
async def test_an_email_of_each_dialect_is_listed_with_what_its_sender_said(
    settings: Settings, surface: Surface
) -> None:
    async with gateway(settings) as served:
        await put(served.rt, f"{BRAND}.token", subject="Photos", html="<p>Photos</p>")
        headers = {"X-Api-Key": served.key}
        assert (await served.http.post(surface.path, json=surface.good, headers=headers)).status_code in (200, 201)
        [(*_, request)] = await records(settings, SEND_REQUESTS)
        now = served.rt.clock()
        log = Log().fold(*life(request, now))
        async with served.rt.pool.connection() as connection:
            await SINK.start(connection, 0, 0, 0)
            await SINK.apply(connection, ChangeBatch(0, 0, 2, [*log.changes, Tick(recorded_at=now + 5)]))
            jobs = await (await connection.execute("select name from jobs.jobs where queue = 'emit'")).fetchall()
        assert jobs == ([("delivered",)] if surface.name == "fasttrack" else [])
        for params in ({}, {"Email": "anna@example.com"}, {"BrandId": brand_uuid("acme", BRANDS[surface.name])}):
            [email] = (await served.http.get("/v1/Email/", params=params, headers=headers)).json()["Emails"]
            assert (email["Email"], email["State"]) == ("anna@example.com", "delivered")
            assert email["MessageId"] == request.email_id
            assert email["Type"] == ("token" if surface.name == "email_v1" else "")
        if surface.name == "email_v1":
            said = {"To": "anna@example.com", "Type": "token", "BrandId": BRAND, "Token": "abcde", "NumPhotos": 10}
            assert email["MsgDetails"] == said
        assert json.loads(msgspec.json.encode(request.dialect)) == surface.name
