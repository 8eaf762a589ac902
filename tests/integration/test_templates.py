"""Templates on real Kafka and Postgres: pushed, versioned, found, rendered, and rebuilt from the log."""

import asyncio
import json
from pathlib import Path
from typing import Any

from pipeline import admin
from pipeline.settings import Settings
from tests.support.command import mailfold, mailfold_on
from tests.support.gateway import Gateway, gateway
from tests.support.projecting import gateway_and_projector
from tests.support.seeing import records, until
from topics.registry import TEMPLATES

WELCOME = {
    "syntax": "twig",
    "texts": {
        "en": {"subject": "Welcome, {{ name }}", "html": "<p>Hello {{ name }}</p>", "text": "Hello {{ name }}"},
        "de": {"subject": "Willkommen, {{ name }}", "html": "<p>Hallo {{ name }}</p>"},
    },
    "default": "en",
    "schema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
}


async def push(served: Gateway, name: str, draft: Any, key: str = "") -> Any:
    answer = await served.http.put(f"/templates/{name}", json=draft, headers={"X-Api-Key": key or served.key})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def get_json(served: Gateway, path: str, key: str = "") -> Any:
    answer = await served.http.get(path, headers={"X-Api-Key": key or served.key})
    return answer.json() | {"status": answer.status_code} if answer.status_code != 200 else answer.json()


async def rendered(served: Gateway, name: str, **wanted: Any) -> Any:
    answer = await served.http.post(f"/templates/{name}/render", json=wanted, headers={"X-Api-Key": served.key})
    return answer.json()


async def test_a_template_is_pushed_and_found_by_id_name_and_hash_and_says_what_it_should(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        first = await push(served, "welcome", WELCOME)
        assert (first["version"], first["usable"]) == (1, True)
        for name in ("welcome", first["id"], first["hash"]):
            template = await get_json(served, f"/templates/{name}")
            assert (template["id"], template["texts"]["en"]["subject"]) == (first["id"], "Welcome, {{ name }}")
        said = await rendered(served, "welcome", language="en-GB", variables={"name": "A & B"})
        assert said == {
            "subject": "Welcome, A & B",
            "html": "<p>Hello A &amp; B</p>",
            "text": "Hello A & B",
            "language": "en",
            "version": 1,
        }
        assert (await rendered(served, "welcome", language="de_AT", variables={"name": "x"}))["language"] == "de"
        assert (await rendered(served, "welcome", language="fr", variables={"name": "x"}))["language"] == "en"
        missing = await rendered(served, "welcome", variables={})
        assert missing == {"error": "'name' is a required property", "where": "variables"}


async def test_the_same_content_is_the_same_version_and_another_one_a_new_one(settings: Settings) -> None:
    other = WELCOME | {"description": "newer"}
    async with gateway_and_projector(settings) as served:
        first, again = await push(served, "welcome", WELCOME), await push(served, "welcome", WELCOME)
        second, back = await push(served, "welcome", other), await push(served, "welcome", WELCOME)
        assert [each["version"] for each in (first, again, second, back)] == [1, 1, 2, 3]
        assert first["hash"] == back["hash"] != second["hash"]
        assert (await get_json(served, "/templates/welcome?version=2"))["description"] == "newer"
        assert (await get_json(served, f"/templates/{second['hash']}"))["version"] == 2
        assert [each["versions"] for each in await get_json(served, "/templates")] == [3]
    on_the_log = await records(settings.model_copy(update={"partitions": 1}), TEMPLATES)
    assert [(key.decode(), record.version) for _, _, key, record in on_the_log] == [
        (f"{first['id']}/{number}", number) for number in (1, 2, 3)
    ]


async def test_two_pushes_at_once_get_a_version_each(settings: Settings) -> None:
    drafts = [WELCOME | {"description": str(number)} for number in range(6)]
    async with gateway_and_projector(settings) as served:
        pushed = await asyncio.gather(*(push(served, "welcome", draft) for draft in drafts))
        assert sorted(each["version"] for each in pushed) == [1, 2, 3, 4, 5, 6]
        for each in pushed:
            template = await get_json(served, f"/templates/welcome?version={each['version']}")
            assert template["hash"] == each["hash"]


async def test_what_does_not_compile_is_refused_with_its_line(settings: Settings) -> None:
    broken = {"texts": {"en": {"html": "<p>\n{% for a in b %}{% endfor %}</p>"}}}
    async with gateway(settings) as served:
        answer = await served.http.put("/templates/x", json=broken, headers={"X-Api-Key": served.key})
        assert (answer.status_code, answer.json()) == (
            400,
            {"error": "line 2: for is not available here", "where": "texts.en.html"},
        )
        assert (await served.http.put("/templates/x", json=WELCOME)).status_code == 401
    assert await records(settings.model_copy(update={"partitions": 1}), TEMPLATES) == []


async def test_a_tenant_sees_its_own_templates_only(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        await admin.add_tenant(served.rt.pool, admin.Tenant("other"))
        key = await admin.add_key(served.rt.pool, "other")
        pushed = await push(served, "welcome", WELCOME)
        for name in ("welcome", pushed["id"], pushed["hash"]):
            assert (await get_json(served, f"/templates/{name}", key))["status"] == 404
        theirs = await push(served, "welcome", WELCOME, key)
        assert theirs["id"] != pushed["id"]
        assert theirs["hash"] != pushed["hash"]


async def test_lost_tables_are_made_again_from_the_log(settings: Settings) -> None:
    async with gateway_and_projector(settings) as served:
        pushed = await push(served, "welcome", WELCOME)
    async with gateway(settings) as served:
        async with served.rt.pool.connection() as connection:
            for table in ("templates.versions", "templates.next_offsets", "intake.template_versions"):
                await connection.execute(f"delete from {table}")  # type: ignore[arg-type,unused-ignore]
        assert (await get_json(served, "/templates/welcome"))["status"] == 404
    async with gateway_and_projector(settings) as served:

        async def is_there() -> bool:
            return bool((await get_json(served, "/templates/welcome")).get("hash") == pushed["hash"])

        await until(is_there)
        again = await push(served, "welcome", WELCOME)
        assert again["version"] == 1


async def test_the_command_pushes_folders_and_shows_them(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "texts" / "reset"
    folder.mkdir(parents=True)
    (folder / "en.subject").write_text("Reset, {{ name }}\n")
    (folder / "en.html").write_text("<p>{{ name|upper }}</p>")
    (folder / "template.json").write_text(json.dumps({"description": "a link"}))
    async with gateway_and_projector(settings) as served:
        await admin.add_tenant(served.rt.pool, admin.Tenant("default"))
        pushed = await mailfold_on(settings, "templates", "push", str(folder.parent))
        assert pushed.code == 0, pushed.err
        assert "reset version 1 hash " in pushed.out
        listed = await mailfold_on(settings, "templates", "list")
        assert "reset" in listed.out
        printed = await mailfold_on(settings, "templates", "show", "reset")
        assert json.loads(printed.out)["texts"]["en"]["subject"] == "Reset, {{ name }}"
        said = await mailfold_on(settings, "templates", "render", "reset", "--variables", '{"name":"a"}')
        assert "<p>A</p>" in said.out
    locally = await asyncio.to_thread(mailfold, "templates", "render", str(folder), "--variables", '{"name":"a"}')
    assert "<p>A</p>" in locally.out, locally.err
    (folder / "en.html").write_text("{{ name }")
    broken = await asyncio.to_thread(mailfold, "templates", "push", str(folder))
    assert (broken.code, "texts.en.html: line 1" in broken.err) == (1, True)
