"""Post Fast Track batches over real HTTP: successful messages are on the log with contents, all others are reported."""

import asyncio
import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

from pipeline import admin
from pipeline.content.chunks import unpack_content
from pipeline.gateway.routes.fasttrack import FastTrackApi
from pipeline.gateway.state import make_gateway_state
from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.ports import Log, LogEntry
from pipeline.settings import Settings
from tests.support.fasttrack import activity, message
from tests.support.gateway import Gateway, gateway
from tests.support.seeing import records, until
from topics import ids
from topics.contents import ContentChunk, MessageContent
from topics.record import LogPosition
from topics.registry import MESSAGE_CONTENTS, SEND_REQUESTS, Topic
from topics.requests import Mailbox, SendRequest


def email_ids(response: httpx.Response) -> dict[str, str]:
    """Return the email ids of a batch's successful messages, by message id."""
    assert response.status_code == 200, response.text
    return {each["id"]: each["email_id"] for each in response.json()["successful"]}


async def requests(settings: Settings) -> list[SendRequest]:
    return [record for *_, record in await records(settings, SEND_REQUESTS)]


async def content_of(settings: Settings, request: SendRequest) -> MessageContent:
    """Return a request's content, read from the position that its pointer names."""
    pointer = request.content
    assert pointer is not None
    chunks: list[ContentChunk] = []
    for partition, offset, key, chunk in await records(settings, MESSAGE_CONTENTS):
        if key == pointer.content_id.encode() and partition == pointer.partition:
            assert chunks or offset == pointer.offset
            chunks.append(chunk)
    assert len(chunks) == pointer.chunks
    return unpack_content(chunks, pointer.sha256)


async def test_successful_message_is_on_the_log_with_its_content(settings: Settings) -> None:
    async with gateway(settings) as served:
        answer = await served.post([message("one", amp_content="<html ⚡4email></html>")])
        email_id = ids.email_id("acme", "fasttrack", "one")
        assert answer.json() == {"successful": [{"id": "one", "email_id": email_id}], "failed": [], "fatal": []}
        (_, _, key, request) = (await records(settings, SEND_REQUESTS))[0]
        assert key == email_id.encode()
        assert request == SendRequest(
            email_id=email_id,
            message_id=ids.message_id("acme", "fasttrack", "one"),
            tenant="acme",
            dialect="fasttrack",
            brand="12",
            recipient="anna@example.com",
            recorded_at=request.recorded_at,
            identity="one",
            sender=Mailbox(address="news@example.com", name="Example"),
            reply_to=("support@example.com",),
            subject="Welcome",
            activity=request.activity,
            content=request.content,
        )
        assert json.loads(bytes(request.activity)) == activity(id="one")
        assert await content_of(settings, request) == MessageContent(
            html="<p>Hello</p>", text="Hello\n", amp="<html ⚡4email></html>"
        )


async def test_activity_is_stored_byte_for_byte(settings: Settings) -> None:
    raw = (
        b'{"id": "verbatim", "brand_id": 123456789012345678901234567890, "user_id": "1", "internal_user_id":-0,'
        b'"activity_id":1,  "action_group_id":1,"trigger_hash":"\\u00e5","action_id":1,"x":1E400,"x":{"b":1,"a":2}}'
    )
    rest = json.dumps({name: value for name, value in message().items() if name != "activity"}).encode()
    async with gateway(settings) as served:
        assert "verbatim" in email_ids(await served.post(b'[{"activity":' + raw + b"," + rest[1:] + b"]"))
        request = (await requests(settings))[0]
        assert bytes(request.activity) == raw
        assert request.brand == "123456789012345678901234567890"


async def test_repeated_batch_returns_same_ids(settings: Settings) -> None:
    batch = [message("one"), message("two", content="<p>rendered</p>")]
    async with gateway(settings) as served:
        first = email_ids(await served.post(batch))
        assert email_ids(await served.post([batch[0], message("two", content="<p>rendered anew</p>")])) == first
        # The URL may be configured with a slash at its end, and clients may add one.
        for path in ("//channels/email/batch", "/channels/email/batch/"):
            url = str(served.http.base_url).rstrip("/") + path
            assert email_ids(await served.http.post(url, json=batch, headers={"X-Api-Key": served.key})) == first


async def test_concurrent_equal_batches_create_one_set_of_emails(settings: Settings) -> None:
    batch = [message(f"m{number}") for number in range(200)]
    async with gateway(settings) as served:
        answers = await asyncio.gather(*[served.post(order) for order in (batch, batch[::-1], batch)])
        assert email_ids(answers[0]) == email_ids(answers[1]) == email_ids(answers[2])
        assert len(email_ids(answers[0])) == 200
        async with served.rt.pool.connection() as connection:
            counted = await (await connection.execute("select count(*) from intake.identities")).fetchone()
        assert counted == (200,)
        assert {request.email_id for request in await requests(settings)} == set(email_ids(answers[0]).values())


async def test_concurrent_requests_for_one_id_accept_only_one_recipient(settings: Settings) -> None:
    async with gateway(settings) as served:
        answers = await asyncio.gather(
            *[served.post([message("one", email=f"{name}@example.com")]) for name in ("anna", "bertil", "cecilia")]
        )
        successes = [answer.json()["successful"] for answer in answers]
        assert sorted(map(len, successes)) == [0, 0, 1]
        assert sorted(len(answer.json()["failed"]) for answer in answers) == [0, 1, 1]
        assert len({request.recipient for request in await requests(settings)}) == 1


@pytest.mark.parametrize("other", [{"email": "bertil@example.com"}, {"activity": activity(id="one", brand_id=13)}])
async def test_same_id_with_another_recipient_or_brand_fails(settings: Settings, other: dict[str, Any]) -> None:
    async with gateway(settings) as served:
        email_ids(await served.post([message("one")]))
        answer = (await served.post([message("one", **other), message("two")])).json()
        assert [each["id"] for each in answer["successful"]] == ["two"]
        error = "[0]: this id was taken before with another recipient or brand"
        assert answer["failed"] == [{"id": "one", "error": error}]


async def test_duplicates_in_one_batch_are_one_email_unless_they_contradict(settings: Settings) -> None:
    async with gateway(settings) as served:
        batch = [message("one"), message("one"), message("one", email="bertil@example.com")]
        answer = (await served.post(batch)).json()
        assert answer["successful"] == [{"id": "one", "email_id": ids.email_id("acme", "fasttrack", "one")}] * 2
        error = "[2].activity.id: this id is in the batch before with another recipient or brand"
        assert answer["failed"] == [{"id": "one", "error": error}]
        assert len(await requests(settings)) == 1


async def test_invalid_messages_do_not_fail_the_others(settings: Settings) -> None:
    async with gateway(settings) as served:
        bad = message("bad", activity=activity(id="bad", brand_id="12"))
        body = json.dumps([bad, message("good"), message("half", subject="\ud800"), 5]).encode()
        answer = (await served.post(body)).json()
        assert [each["id"] for each in answer["successful"]] == ["good"]
        assert [each["id"] for each in answer["failed"]] == ["bad", "half", None]
        assert answer["failed"][0]["error"] == "[0].activity.brand_id: expected int, got str"
        assert answer["fatal"] == []


async def test_overlapping_batches_create_each_email_once(settings: Settings) -> None:
    batch = [message(f"m{number}") for number in range(60)]
    async with gateway(settings) as served:
        half = email_ids(await served.post(batch[:30]))
        answers = await asyncio.gather(served.post(batch), served.post(batch), served.post(batch[30:]))
        whole, again, rest = map(email_ids, answers)
        assert whole == again
        assert half.items() | rest.items() == whole.items()
        assert {request.email_id for request in await requests(settings)} == set(whole.values())


async def test_each_invalid_message_fails_and_all_valid_ones_are_accepted(settings: Settings) -> None:
    from tests.unit.dialects.test_fasttrack import wrong_messages

    wrong = [bad for _, bad in wrong_messages().values()]
    batch = [item for index, bad in enumerate(wrong) for item in (message(f"good{index}"), bad)]
    async with gateway(settings) as served:
        answer = (await served.post(batch)).json()
        assert [each["id"] for each in answer["successful"]] == [f"good{index}" for index in range(len(wrong))]
        assert [each["error"].partition("]")[0] for each in answer["failed"]] == [
            f"[{2 * index + 1}" for index in range(len(wrong))
        ]
        assert answer["fatal"] == []


async def test_empty_batch_returns_three_empty_arrays(settings: Settings) -> None:
    async with gateway(settings) as served:
        assert (await served.post([])).json() == {"successful": [], "failed": [], "fatal": []}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "end of body"),
        (b"{}", "body"),
        (b"[1,", "end of body"),
        (b'["\xff"]', "byte 2"),
        (b"[" * 100_000, "body"),
        (b'["\\ud800"', "end of body"),
    ],
)
async def test_body_that_is_not_a_batch_is_a_400_with_error_and_where(
    settings: Settings, body: bytes, where: str
) -> None:
    async with gateway(settings) as served:
        answer = await served.post(body)
        assert answer.status_code == 400
        assert answer.json()["where"] == where
        assert set(answer.json()) == {"error", "code", "where"}


async def test_request_needs_a_key_that_is_not_revoked(settings: Settings) -> None:
    wrong: tuple[dict[str, str], ...] = ({}, {"X-Api-Key": "mf_wrong"}, {"Authorization": "Basic x"})
    async with gateway(settings) as served:
        for headers in wrong:
            answer = await served.http.post("/channels/email/batch", json=[], headers=headers)
            assert answer.status_code == 401
            assert answer.json()["where"] == "X-Api-Key"
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        bearer = {"Authorization": f"Bearer {served.key}"}
        assert (await served.http.post("/channels/email/batch", json=[], headers=bearer)).status_code == 200
        assert (await served.post([])).status_code == 200
        await admin.revoke_key(served.rt.pool, admin.key_hash(served.key)[:6].hex())
        await until(lambda: _is_answered_with(served, 401))


async def _is_answered_with(served: Gateway, status: int) -> bool:
    return (await served.post([])).status_code == status


async def test_tenants_with_the_same_message_id_get_different_email_ids(settings: Settings) -> None:
    async with gateway(settings) as served:
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        key = await admin.add_key(served.rt.pool, "other")
        mine = email_ids(await served.post([message("one")]))
        theirs = email_ids(await served.post([message("one", email="bertil@example.com")], X_Api_Key=key))
        assert mine["one"] != theirs["one"]
        assert {request.tenant for request in await requests(settings)} == {"acme", "other"}


async def test_messages_over_the_batch_maximum_are_fatal_and_the_rest_accepted(settings: Settings) -> None:
    async with gateway(settings) as served:
        await admin.add_tenant(served.rt.pool, admin.Tenant("small", batch_max=2))
        key = await admin.add_key(served.rt.pool, "small")
        answer = (await served.post([message(f"m{n}") for n in range(5)], X_Api_Key=key)).json()
        assert [each["id"] for each in answer["successful"]] == ["m0", "m1"]
        assert [each["id"] for each in answer["fatal"]] == ["m2", "m3", "m4"]
        assert len(await requests(settings)) == 2


async def test_messages_over_the_rate_are_fatal_and_accepted_later(settings: Settings) -> None:
    async with gateway(settings) as served:
        await admin.add_tenant(served.rt.pool, admin.Tenant("slow", rate_per_second=2))
        key = await admin.add_key(served.rt.pool, "slow")
        waiting = [message(f"m{n}") for n in range(5)]
        rounds = 0
        while waiting:
            answer = (await served.post(waiting, X_Api_Key=key)).json()
            fatal = {each["id"] for each in answer["fatal"]}
            assert len(waiting) == len(fatal) + len(answer["successful"])
            waiting = [item for item in waiting if item["activity"]["id"] in fatal]
            rounds += 1
            await asyncio.sleep(0.1)
        assert rounds > 1
        assert len(await requests(settings)) == 5


async def test_body_over_the_limit_is_a_413_in_every_encoding(settings: Settings) -> None:
    async with gateway(settings, body_max=100_000) as served:
        large = json.dumps([message(content="x" * 200_000)]).encode()

        async def pieces() -> Any:
            for start in range(0, len(large), 10_000):
                yield large[start : start + 10_000]

        headers = {"X-Api-Key": served.key}
        declared = await served.post(large)
        chunked = await served.http.post("/channels/email/batch", content=pieces(), headers=headers)
        bomb = await served.post(gzip.compress(large), Content_Encoding="gzip")
        for answer in (declared, chunked, bomb):
            assert answer.status_code == 413, answer.text
            assert answer.json()["where"] == "body"
        assert (await served.post([message()])).status_code == 200
        assert len(await requests(settings)) == 1


async def test_gzip_is_accepted_and_other_encodings_are_refused(settings: Settings) -> None:
    async with gateway(settings) as served:
        zipped = gzip.compress(json.dumps([message("zipped")]).encode())
        assert "zipped" in email_ids(await served.post(zipped, Content_Encoding="gzip"))
        for body in (b"[]", zipped[:-9], zipped + b"x", b""):
            answer = await served.post(body, Content_Encoding="gzip")
            assert (answer.status_code, answer.json()["where"]) == (400, "body")
        answer = await served.post(zipped, Content_Encoding="br")
        assert (answer.status_code, answer.json()["where"]) == (415, "Content-Encoding")


async def test_batch_of_ten_thousand_messages_is_accepted(settings: Settings) -> None:
    async with gateway(settings, append_timeout=60) as served:
        answer = await served.post([message(f"m{n}") for n in range(10_000)])
        assert len(email_ids(answer)) == 10_000
        assert len({request.email_id for request in await requests(settings)}) == 10_000


async def test_message_of_five_megabytes_is_stored_in_several_chunks(settings: Settings) -> None:
    # Hashes compress badly, so the content needs several chunks.
    import hashlib

    html = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(80_000))
    async with gateway(settings) as served:
        assert "large" in email_ids(await served.post([message("large", content=html), message("small")]))
        large = next(request for request in await requests(settings) if request.identity == "large")
        assert large.content is not None
        assert large.content.chunks > 1
        assert (await content_of(settings, large)).html == html


class HalfConfirmingLog:
    """The real log, which does not confirm every second record of one topic."""

    def __init__(self, log: Log, topic: Topic) -> None:
        self._log = log
        self._topic = topic

    async def append(self, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition | None]:
        unconfirmed = [entry for entry in entries if entry.topic is self._topic][1::2]
        appended = [entry for entry in entries if entry not in unconfirmed]
        positions = iter(await self._log.append(appended, within=within))
        return [None if entry in unconfirmed else next(positions) for entry in entries]


@pytest.mark.parametrize("topic", [MESSAGE_CONTENTS, SEND_REQUESTS], ids=lambda topic: topic.name)
async def test_unconfirmed_messages_are_fatal_and_the_rest_successful(settings: Settings, topic: Topic) -> None:
    async with open_runtime(settings) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        state = make_gateway_state(rt)
        api = FastTrackApi(replace(state, log=HalfConfirmingLog(rt.log, topic)))
        body = json.dumps([message(f"m{number}") for number in range(3)]).encode()
        answer = json.loads(bytes((await api.answer(admin.ApiKey("key", admin.Tenant("acme")), body)).body))
        assert [each["id"] for each in answer["successful"]] == ["m0", "m2"]
        error = "[1]: the log did not confirm it in time; send it again"
        assert answer["fatal"] == [{"id": "m1", "error": error}]
        assert {request.identity for request in await requests(settings)} == {"m0", "m2"}
