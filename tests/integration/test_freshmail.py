"""Test FreshMail's API over real HTTP: a request is accepted whole or refused, and repeats send nothing twice."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

from pipeline import admin
from pipeline.content.chunks import unpack_content
from pipeline.gateway.routes.freshmail import FreshMailApi
from pipeline.gateway.state import make_gateway_state
from pipeline.runtime.ports import Log, LogEntry
from pipeline.settings import Settings
from tests.support.dialects import freshmail
from tests.support.gateway import Gateway, gateway
from tests.support.seeing import records
from tests.support.templates import put
from topics import ids
from topics.contents import Attachment, MessageContent
from topics.record import LogPosition
from topics.registry import MESSAGE_CONTENTS, SEND_REQUESTS
from topics.requests import Mailbox, SendRequest
from topics.templates import TemplateSyntax


async def post(served: Gateway, body: Any, key: str = "", path: str = "/v3/messaging/emails") -> httpx.Response:
    headers = {"Authorization": f"Bearer {served.key}", **({"Idempotency-Key": key} if key else {})}
    return await served.http.post(path, json=body, headers=headers)


async def requests(settings: Settings) -> list[SendRequest]:
    return [record for *_, record in await records(settings, SEND_REQUESTS)]


def pointer(request: SendRequest) -> str:
    assert request.content is not None
    return request.content.content_id


async def contents(settings: Settings) -> dict[str, MessageContent]:
    """Return every content by its id."""
    chunks: dict[str, list[Any]] = {}
    for *_, chunk in await records(settings, MESSAGE_CONTENTS):
        chunks.setdefault(chunk.content_id, []).append(chunk)
    hashes = {
        request.content.content_id: request.content.sha256 for request in await requests(settings) if request.content
    }
    return {content_id: unpack_content(parts, hashes[content_id]) for content_id, parts in chunks.items()}


@pytest.mark.parametrize("path", ["/v3/messaging/emails", "/v3/messaging/emails/"])
async def test_emails_are_personalized_with_and_without_the_trailing_slash(settings: Settings, path: str) -> None:
    body = freshmail(
        {"email": "a@example.com", "name": "Adam", "personalization": {"name": "Adam <3"}, "headers": {"X-One": "own"}},
        {"email": "b@example.com", "personalization": {"name": "Bo"}},
        subject="Hello {{ name }}",
        contents=[
            {"type": "text/html", "body": "<h1>Hello $$name$$</h1>{% if name == 'Bo' %}!{% endif %}"},
            {"type": "text/plain", "body": "Hello $$name$$"},
        ],
        headers={"x-one": "all", "x-two": "2"},
        attachments=[{"name": "invoice.pdf", "content": base64.b64encode(b"%PDF").decode()}],
    )
    async with gateway(settings) as served:
        answer = await post(served, body, "k", path)
        assert answer.status_code == 201, answer.text
        a, b = (ids.email_id("acme", "freshmail", "k", index) for index in (0, 1))
        assert answer.json() == [{"email": "a@example.com", "id": a}, {"email": "b@example.com", "id": b}]
        by_id = {request.email_id: request for request in await requests(settings)}
        assert by_id[a].subject == "Hello Adam <3"
        assert (by_id[a].recipient_name, by_id[a].sender) == (
            "Adam",
            Mailbox(address="sender@example.com", name="John Sender"),
        )
        assert by_id[a].message_id == by_id[b].message_id
        stored = await contents(settings)
        file = (Attachment(filename="invoice.pdf", media_type="application/pdf", data=b"%PDF"),)
        assert stored[pointer(by_id[a])] == MessageContent(
            html="<h1>Hello Adam &lt;3</h1>",
            text="Hello Adam <3",
            attachments=file,
            headers=(("X-One", "own"), ("x-two", "2")),
        )
        assert stored[pointer(by_id[b])] == MessageContent(
            html="<h1>Hello Bo</h1>!", text="Hello Bo", attachments=file, headers=(("x-one", "all"), ("x-two", "2"))
        )


async def test_recipients_of_equal_contents_share_one(settings: Settings) -> None:
    async with gateway(settings) as served:
        answer = await post(served, freshmail(*[f"r{number}@example.com" for number in range(100)]))
        assert len(answer.json()) == 100
        assert len(await contents(settings)) == 1
        assert len(await requests(settings)) == 100


async def test_one_invalid_recipient_refuses_the_whole_request(settings: Settings) -> None:
    async with gateway(settings) as served:
        answer = await post(served, freshmail("a@example.com", "nobody", "c@example.com", "also nobody"))
        assert answer.status_code == 400
        error = "This value is not a valid email address."
        assert answer.json() == {"errors": {"Recipients[1].email": error, "Recipients[3].email": error}}
        wrong = freshmail("a@example.com", contents=[{"type": "text/plain", "body": "x\n{{ 'x'|date }}"}])
        answer = await post(served, wrong)
        [(where, error)] = answer.json()["errors"].items()
        assert where == "Recipients[0].personalization"
        assert error.startswith("Contents[0].body: line 2")
        assert await requests(settings) == []


async def test_template_is_found_by_its_hash(settings: Settings) -> None:
    async with gateway(settings) as served:
        template = await put(
            served.rt, "hello", syntax=TemplateSyntax.FRESHMAIL, subject="s", html="<p>$$name$$</p>", text="$$name$$"
        )
        recipient = {"email": "a@example.com", "personalization": {"name": "Å & B"}}
        answer = await post(served, freshmail(recipient, contents=None, templateHash=template.hash))
        assert answer.status_code == 201, answer.text
        [request] = await requests(settings)
        assert request.template
        assert request.template.version == 1
        assert request.subject == "Message subject"
        [content] = (await contents(settings)).values()
        assert (content.html, content.text) == ("<p>Å &amp; B</p>", "Å & B")
        unknown = await post(served, freshmail(contents=None, templateHash="nothing"))
        assert (unknown.status_code, list(unknown.json()["errors"])) == (400, ["TemplateHash"])
        both = await post(served, freshmail(templateHash=template.hash))
        assert both.json()["errors"] == {"Contents": "Exactly one of templateHash and contents must be given."}


async def test_idempotency_key_with_another_list_is_a_conflict(settings: Settings) -> None:
    async with gateway(settings) as served:
        first = await post(served, freshmail("a@example.com", "b@example.com"), "k")
        assert (await post(served, freshmail("a@example.com", "b@example.com"), "k")).json() == first.json()
        for other in ("a", "ba", "abc"):
            answer = await post(served, freshmail(*[f"{name}@example.com" for name in other]), "k")
            assert answer.status_code == 409
            assert answer.json() == {"errors": ["This Idempotency-Key was used before for other recipients."]}
        assert len({request.email_id for request in await requests(settings)}) == 2
        assert (await post(served, freshmail(), "x" * 256)).status_code == 400


async def test_whole_list_is_accepted_and_the_next_request_is_over_the_rate(settings: Settings) -> None:
    async with gateway(settings) as served:
        await admin.add_tenant(served.rt.pool, admin.Tenant("acme", rate_per_second=1))
        assert (await post(served, freshmail(*[f"r{number}@example.com" for number in range(60)]))).status_code == 201
        answer = await post(served, freshmail())
        assert answer.status_code == 429
        assert 50 <= int(answer.headers["Retry-After"]) <= 60
        assert isinstance(answer.json()["errors"], list)


class PartlyConfirmingLog:
    """The real log, which does not confirm every second send request while `is_failing`."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.is_failing = True

    async def append(self, entries: Sequence[LogEntry], *, within: float | None = None) -> list[LogPosition | None]:
        positions = await self._log.append(entries, within=within)
        if self.is_failing and entries[0].topic is SEND_REQUESTS:
            return [None if index % 2 else position for index, position in enumerate(positions)]
        return positions


async def test_partly_confirmed_request_is_a_503_and_the_repeat_completes_it(settings: Settings) -> None:
    from pipeline.dialects import freshmail as dialect
    from pipeline.runtime.bootstrap import open_runtime

    request: Any = httpx.Request("POST", "/", headers={"Idempotency-Key": "k"})
    async with open_runtime(settings) as rt:
        await admin.add_tenant(rt.pool, admin.Tenant("acme"))
        state = make_gateway_state(rt)
        log = PartlyConfirmingLog(rt.log)
        api = FreshMailApi(replace(state, log=log))
        import json

        body = dialect.parse_request(json.dumps(freshmail("a@example.com", "b@example.com", "c@example.com")).encode())
        first = await api.answer(request, admin.Tenant("acme"), body)
        assert first.status_code == 503
        assert first.headers["Retry-After"]
        assert list(json.loads(bytes(first.body))) == ["errors"]
        log.is_failing = False
        again = await api.answer(request, admin.Tenant("acme"), body)
        assert again.status_code == 201
    assert {request.email_id for request in await requests(settings)} == {
        ids.email_id("acme", "freshmail", "k", index) for index in range(3)
    }


async def test_missing_or_wrong_key_is_a_401_in_freshmails_shape(settings: Settings) -> None:
    async with gateway(settings) as served:
        for headers in ({}, {"Authorization": "Bearer mf_wrong"}, {"Authorization": "Basic eDp5"}):
            answer = await served.http.post("/v3/messaging/emails", json=freshmail(), headers=headers)
            assert answer.status_code == 401
            assert isinstance(answer.json()["errors"], list)
        answers = await asyncio.gather(*[post(served, freshmail("a@example.com"), "same") for _ in range(4)])
        assert len({answer.text for answer in answers}) == 1
