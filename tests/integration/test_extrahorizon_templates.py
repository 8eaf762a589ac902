"""Test Extra Horizon's mails by template: text parts, localizations and the error over the rate."""

import asyncio
import json
from pathlib import Path
from typing import Any

from pipeline import admin
from pipeline.content.chunks import unpack_content
from pipeline.settings import Settings
from tests.integration.test_extrahorizon import PLAIN, find, push_welcome, send
from tests.support.command import mailfold, mailfold_on
from tests.support.gateway import Gateway, gateway
from tests.support.projecting import gateway_and_projector
from tests.support.seeing import records, until
from tests.support.whole import whole
from topics.contents import ContentChunk
from topics.registry import MESSAGE_CONTENTS, SEND_REQUESTS

GREETING = {
    "syntax": "extrahorizon",
    "texts": {
        "default": {"subject": "{{greeting,$content.name}}", "html": "<p>{{greeting,$content.name}} {{closing}}</p>"}
    },
}
RENDER = ("--variables", '{"name": "Anna"}', "--language", "NL")
LOCALIZATIONS = {
    "languages": {"EN": {"greeting": "Dear $1", "closing": "Kind regards"}, "NL": {"greeting": "Beste $1"}},
}


async def test_body_of_a_template_mail_is_its_text_part(settings: Settings) -> None:
    mail = {"template_id": "welcome", "content": {"first_name": "Anna"}, "recipients": {"to": ["anna@example.com"]}}
    async with whole(settings) as world:
        await push_welcome(world)
        sent = await send(world.served, mail | {"body": "Dear Anna, $content.first_name & <all>."})
        assert sent["body"] == "Dear Anna, $content.first_name & <all>."
        await until(lambda: world.got("anna@example.com"))
        message = world.got("anna@example.com")[0].message
        text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
        assert text is not None
        assert html is not None
        assert text.get_content().strip() == sent["body"]
        assert "Dear Anna." in html.get_content()

        async def is_kept() -> bool:
            mails = (await find(world, f"?eq(id,{sent['id']})"))["data"]
            return bool(mails and mails[0]["body"] == sent["body"])

        await until(is_kept)


async def test_body_does_not_replace_a_text_only_template(settings: Settings) -> None:
    texts = {"texts": {"en": {"subject": "Hi", "text": "The template's own text"}}}
    async with gateway_and_projector(settings) as served:
        headers = {"X-Api-Key": served.key}
        assert (await served.http.put("/templates/plain", json=texts, headers=headers)).status_code == 200
        await send(served, {"template_id": "plain", "body": "b", "recipients": {"to": ["anna@example.com"]}})
    chunks: list[ContentChunk] = [record for *_, record in await records(settings, MESSAGE_CONTENTS)]
    ((*_, request),) = await records(settings, SEND_REQUESTS)
    assert unpack_content(chunks, request.content.sha256).text == "The template's own text"


async def test_error_over_the_rate_has_the_code_for_a_retry(settings: Settings) -> None:
    async with gateway(settings) as served:
        await admin.add_tenant(served.rt.pool, admin.Tenant("slow", None, 1))
        key = await admin.add_key(served.rt.pool, "slow")

        async def is_over() -> bool:
            answer = await served.http.post("/mail/v1/", json=PLAIN, headers={"X-Api-Key": key})
            if answer.status_code == 200:
                return False
            assert (answer.status_code, answer.json()["code"]) == (429, 4)
            assert answer.json()["name"] == "SERVICE_UNREACHABLE_EXCEPTION"
            assert int(answer.headers["Retry-After"]) >= 1
            return True

        await until(is_over)


async def put(served: Gateway, path: str, body: Any) -> Any:
    answer = await served.http.put(path, json=body, headers={"X-Api-Key": served.key})
    assert answer.status_code == 200, answer.text
    return answer.json()


def mail(language: str, **content: str) -> Any:
    return {
        "template_name": "greeting",
        "language": language,
        "content": content,
        "recipients": {"to": ["anna@example.com"]},
    }


async def test_localizations_are_resolved_in_the_mails_language(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        headers = {"X-Api-Key": served.key}
        await put(served, "/templates/greeting", GREETING)
        missing = await send(served, mail("NL", name="Anna"), status=400)
        assert (missing["code"], missing["name"]) == (1002, "LOCALIZATION_KEY_MISSING_EXCEPTION")
        assert (await served.http.get("/localizations", headers=headers)).status_code == 404
        pushed = await put(served, "/localizations", LOCALIZATIONS)
        assert (pushed["version"], pushed["usable"]) == (1, True)
        subjects = [(await send(served, mail(to, name="A & B")))["subject"] for to in ("NL", "nl-BE", "EN", "fr")]
        assert subjects == ["Beste A & B", "Beste A & B", "Dear A & B", "Dear A & B"]
        assert (await send(served, mail("NL"), status=400))["code"] == 1003
        rendered = await served.http.post(
            "/templates/greeting/render", json={"language": "nl", "variables": {"name": "<A>"}}, headers=headers
        )
        assert rendered.json()["html"] == "<p>Beste &lt;A&gt; Kind regards</p>"
    chunks: list[ContentChunk] = [record for *_, record in await records(settings, MESSAGE_CONTENTS)]
    requests = [record for *_, record in await records(settings, SEND_REQUESTS)]
    htmls = {
        unpack_content(
            [chunk for chunk in chunks if chunk.content_id == request.content.content_id], request.content.sha256
        ).html
        for request in requests
    }
    assert htmls == {"<p>Beste A &amp; B Kind regards</p>", "<p>Dear A &amp; B Kind regards</p>"}


async def test_push_replaces_the_localizations_which_are_not_listed_as_a_template(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        headers = {"X-Api-Key": served.key}
        first, again = [await put(served, "/localizations", LOCALIZATIONS) for _ in range(2)]
        second = await put(served, "/localizations", {"languages": {"en": {"greeting": "Hi $1"}}})
        assert [push["version"] for push in (first, again, second)] == [1, 1, 2]
        newest = (await served.http.get("/localizations", headers=headers)).json()
        assert (newest["version"], newest["languages"]) == (2, {"en": {"greeting": "Hi $1"}})
        await put(served, "/templates/greeting", GREETING)
        assert (await send(served, mail("en", name="A"), status=400))["code"] == 1002
        listed = (await served.http.get("/templates", headers=headers)).json()
        assert [template["name"] for template in listed] == ["greeting"]
        for name in ("@localizations", second["id"], second["hash"]):
            assert (await served.http.get(f"/templates/{name}", headers=headers)).status_code == 404
        refused = await served.http.put("/localizations", json={"languages": {"nl": {"a": "b"}}}, headers=headers)
        assert (refused.status_code, refused.json()["where"]) == (400, "default")
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        key = await admin.add_key(served.rt.pool, "other")
        assert (await served.http.get("/localizations", headers={"X-Api-Key": key})).status_code == 404


async def test_other_dialects_refuse_a_template_with_localizations(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        pushed = await put(served, "/templates/greeting", GREETING)
        body = {
            "recipients": [{"email": "anna@example.com", "personalization": {"name": "Anna"}}],
            "from": {"name": "News", "email": "news@example.com"},
            "subject": "s",
            "templateHash": pushed["hash"],
        }
        answer = await served.http.post("/v3/messaging/emails", json=body, headers={"X-Api-Key": served.key})
        assert (answer.status_code, "there is no localization greeting" in answer.text) == (400, True), answer.text
    assert await records(settings, SEND_REQUESTS) == []


def localization_files(folder: Path) -> Path:
    folder.mkdir()
    for language, texts in LOCALIZATIONS["languages"].items():
        (folder / f"{language}.json").write_text(json.dumps(texts))
    return folder


async def test_command_line_pushes_shows_and_renders_localizations(settings: Settings, tmp_path: Path) -> None:
    folder = localization_files(tmp_path / "localizations")
    async with gateway_and_projector(settings) as served:
        await put(served, "/templates/greeting", GREETING)
        command = ("templates", "localizations")
        pushed = await mailfold_on(settings, *command, "push", str(folder), "--tenant", "acme")
        assert "localizations version 1 hash" in pushed.out, pushed
        shown, rendered = await asyncio.gather(
            mailfold_on(settings, *command, "show", "--tenant", "acme"),
            mailfold_on(settings, "templates", "render", "greeting", *RENDER, "--tenant", "acme"),
        )
        assert json.loads(shown.out)["languages"]["nl"] == {"greeting": "Beste $1"}
        assert "Beste Anna Kind regards" in rendered.out, rendered


async def test_command_line_renders_folders_without_servers(tmp_path: Path) -> None:
    folder = localization_files(tmp_path / "localizations")
    template = tmp_path / "greeting"
    template.mkdir()
    (template / "template.json").write_text('{"syntax": "extrahorizon"}')
    (template / "default.html").write_text("<p>{{greeting,$content.name}}</p>")
    rendered = await asyncio.to_thread(
        mailfold, "templates", "render", str(template), *RENDER, "--localizations", str(folder)
    )
    assert "<p>Beste Anna</p>" in rendered.out, rendered
