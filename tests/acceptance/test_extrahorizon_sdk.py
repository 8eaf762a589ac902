"""Run programs with Extra Horizon's own SDK, from its registry, against a running gateway."""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline import admin
from pipeline.content.mime import with_ascii_domain
from pipeline.settings import Settings
from tests.support.http_server import http_server
from tests.support.seeing import until
from tests.support.whole import Whole, whole
from topics.ids import owner_uuid

FOLDER = Path(__file__).parent / "extrahorizon_sdk"
NEEDED = ("node", "npm")
SCRIPT_TIMEOUT_S = 150.0
TEMPLATE = {
    "syntax": "extrahorizon",
    "texts": {
        "en": {
            "subject": "Welcome, $content.firstName",
            "html": '<p>Hello</p><img src="http://app.example/mail/v1/$content.tracking_hash/open">',
        }
    },
}

GREETING = {
    "syntax": "extrahorizon",
    "texts": {"default": {"subject": "{{greeting,$content.name}}", "html": "<p></p>"}},
}
UNFINISHED = {"syntax": "extrahorizon", "texts": {"default": {"subject": "{{nothing}}", "html": "<p></p>"}}}
LOCALIZATIONS = {"languages": {"EN": {"greeting": "Dear $1"}, "NL": {"greeting": "Beste $1"}}}
NINOMIYA = "二ノ宮@黒川.日本"
_LONG, _SHORT, _BOTH = ["long"], ["short"], ["long", "short"]
FOUND_MAILS = {
    **dict.fromkeys(("eq", "eqCast", "ne", "gt", "out", "like", "contains", "containsBoth", "place"), _LONG),
    **dict.fromkeys(("placeInItems", "longerThanTwo", "recipients", "and", "andWithPage", "handWritten"), _LONG),
    **dict.fromkeys(("lt", "in", "excludes", "excludesOne", "atMostTwo", "or", "shorthand"), _SHORT),
    **dict.fromkeys(("ge", "le", "list", "intermediate", "sortedDown"), _BOTH),
    "containsOne": _LONG,
    "inNothing": [],
    "sortedUp": ["short", "long"],
    "limited": ["long"],
}
"""The mails that each query of queries.mjs finds."""
ERRORS = {
    "missingKey": "LocalizationKeyMissingError",
    "missingValue": "TemplateFillingError",
    "bothKinds": "IllegalArgumentError",
    "noSubject": "MissingRequiredFieldsError",
    "noTemplate": "ResourceUnknownError",
    "tooLarge": "IllegalArgumentError",
    "noBody": "EmptyBodyError",
    "unknownHash": "ResourceUnknownError",
    "notLoggedIn": "UserNotAuthenticatedError",
    "orWithPage": "InvalidRqlError",
}


@pytest.fixture(scope="module")
def sdk() -> Path:
    """Install the SDK as package-lock.json pins it, once; skip without Node, which CI does not allow."""
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        pytest.skip(f"{' and '.join(missing)} not installed: the official SDK can't be run")
    stamp = FOLDER / "node_modules" / ".mailfold"
    pinned = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != pinned:
        command = ["npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        stamp.write_text(pinned)
    return FOLDER


@pytest.mark.timeout(SCRIPT_TIMEOUT_S + 30)
async def test_official_sdk_sends_finds_tracks_and_lists_queued_mails(settings: Settings, sdk: Path) -> None:
    async with whole(settings) as world, _inbox(world) as inbox:
        world.inbox.rcpt["later@example.com"] = ["451 4.3.0 later"]
        pushed = await _push(world, "/templates/welcome", TEMPLATE)
        result = await _run_script(sdk, "session.mjs", HOST=_host(world), KEY=world.served.key, INBOX=inbox)
        assert [mail.recipient for mail in world.got("ben@example.com")] == ["ben@example.com"]
        (anna,) = world.got("anna@example.com")
        assert [part.get_filename() for part in anna.message.iter_attachments()] == ["report.txt"]
        text = world.got("cy@example.com")[0].message.get_body(("plain",))
        assert text is not None
        assert text.get_content().strip() == "Hello in plain text"
    assert result["health"] is True
    assert result["wrongKey"] == "InvalidGrantError"
    assert result["tokens"]["expiresIn"] == 3600
    assert result["tokens"]["hidden"] is True
    _assert_plain_mail(result)
    assert result["template"]["subject"] == "Welcome, Cy"
    assert result["template"]["templateId"] == pushed["id"]
    assert result["template"]["body"] == "Hello in plain text"
    assert result["template"]["content"] == {"firstName": "Cy", "snake_case": 1, "creationTimestamp": 5}
    assert (result["refused"], result["invalid"]) == ("FieldFormatError", "InvalidRqlError")
    assert result["bySubject"] == result["plain"]["id"]
    assert result["byContent"] == result["template"]["id"]
    assert result["none"] is None
    assert result["page"] == {"page": {"total": 2, "offset": 1, "limit": 1}, "data": [_id_and_subject(result["plain"])]}
    assert result["combined"] == 2
    assert result["many"] == 53
    assert result["tracked"] == [{"affectedRecords": 1}] * 2
    assert result["views"] == 2
    queued = result["outbound"]["data"][0]
    assert queued["status"] in ("queued", "sending"), "it is retried"
    assert (queued["to"], queued["text"]) == (["later@example.com"], "later")
    assert result["refreshed"] == 56


@pytest.mark.timeout(SCRIPT_TIMEOUT_S + 30)
async def test_official_sdk_gets_its_own_error_classes_and_mails(settings: Settings, sdk: Path) -> None:
    async with whole(settings) as world:
        await _push(world, "/templates/greeting", GREETING)
        await _push(world, "/templates/unfinished", UNFINISHED)
        await _push(world, "/localizations", LOCALIZATIONS)
        await admin.add_tenant(world.served.rt.pool, admin.Tenant("slow", None, 1))
        slow = await admin.add_key(world.served.rt.pool, "slow")
        result = await _run_script(sdk, "contract.mjs", HOST=_host(world), KEY=world.served.key, SLOW_KEY=slow)
        await until(lambda: world.got(with_ascii_domain(NINOMIYA)))
    assert result["queries"] == FOUND_MAILS
    assert result["selected"] == [{"items": [{"n": 70}, {"n": 20}]}, {"items": [{"n": 95}]}]
    assert result["counted"] is False
    assert result["greetings"] == ["Beste Dirk", "Dear Dirk", "Dear Dirk"]
    assert result["errors"] == ERRORS
    assert result["grants"] == [
        ["InvalidGrantError", "AuthenticationError"],
        ["InvalidGrantError", "RefreshTokenUnknownError"],
    ]
    assert result["over"]["classes"][:2] == ["ServiceUnreachableError", "ServiceUnavailableError"]
    assert (result["over"]["status"], result["over"]["code"]) == (429, 4)
    assert result["internationalized"] == [NINOMIYA]


async def _push(world: Whole, path: str, body: Any) -> Any:
    """Push a template and return the answer once the template can be used."""
    answer = await world.http.put(path, json=body, headers=world.bearer)
    assert answer.is_success, answer.text

    async def is_there() -> bool:
        return (await world.http.get(path, headers=world.bearer)).status_code == 200

    await until(is_there)
    return answer.json()


def _assert_plain_mail(result: Any) -> None:
    mail = result["found"]
    assert mail["id"] == result["plain"]["id"]
    assert mail["creatorId"] == owner_uuid("acme")
    assert mail["awsMessageId"] == "abc123"
    assert mail["recipients"] == {"to": ["anna@example.com"], "bcc": ["ben@example.com"]}
    assert (mail["from"], mail["replyTo"]) == ("news@example.com", ["support@example.com"])
    assert (mail["subject"], mail["body"], mail["views"]) == ("A, (b) & 100% c", "plain text", 0)
    assert "attachments" not in mail
    # The SDK converts milliseconds to dates.
    assert mail["creationTimestamp"].endswith("Z")
    assert mail["creationTimestamp"] < mail["updateTimestamp"]
    assert result["plain"] | {"awsMessageId": "abc123", "updateTimestamp": mail["updateTimestamp"]} == mail


def _id_and_subject(mail: Any) -> Any:
    return {"id": mail["id"], "subject": mail["subject"]}


async def _run_script(sdk: Path, script: str, **env: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        "node",
        str(sdk / script),
        env={"PATH": os.environ["PATH"], "SDK_FOLDER": str(sdk), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), SCRIPT_TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def _host(world: Whole) -> str:
    # The SDK speaks plain HTTP to a host of this name only.
    return f"http://localhost:{world.http.base_url.port}"


@contextlib.asynccontextmanager
async def _inbox(world: Whole) -> AsyncIterator[str]:
    """Serve the HTML that Cy got, for the script that acts as Cy's mail client."""

    async def show(_: web.Request) -> web.Response:
        body = world.got("cy@example.com")[0].message.get_body(("html",))
        assert body is not None
        return web.Response(text=body.get_content())

    async with http_server(show) as port:
        yield f"http://127.0.0.1:{port}/"
