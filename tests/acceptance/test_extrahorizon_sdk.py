"""Extra Horizon's own SDK, from its registry, against a running gateway: what its users' programs do, done."""

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

from pipeline.settings import Settings
from tests.support.http_server import http_server
from tests.support.whole import Whole, whole
from topics.ids import owner_uuid

FOLDER = Path(__file__).parent / "extrahorizon_sdk"
NEEDED = ("node", "npm")
PATIENCE = 150.0
TEMPLATE = {
    "syntax": "extrahorizon",
    "texts": {
        "en": {
            "subject": "Welcome, $content.firstName",
            "html": '<p>Hello</p><img src="http://app.example/mail/v1/$content.tracking_hash/open">',
        }
    },
}


@pytest.fixture(scope="module")
def sdk() -> Path:
    """The SDK as package-lock.json pins it, by hash; installed once. Without Node this skips, which CI forbids."""
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


@pytest.mark.timeout(PATIENCE + 30)
async def test_the_official_sdk_sends_finds_tracks_and_lists_what_is_queued(settings: Settings, sdk: Path) -> None:
    async with whole(settings) as world, _inbox(world) as inbox:
        world.inbox.rcpt["later@example.com"] = ["451 4.3.0 later"]
        pushed = await world.http.put("/templates/welcome", json=TEMPLATE, headers=world.bearer)
        assert pushed.is_success, pushed.text
        told = await _session(sdk, HOST=_host(world), KEY=world.served.key, INBOX=inbox)
        assert [mail.recipient for mail in world.got("ben@example.com")] == ["ben@example.com"]
        (anna,) = world.got("anna@example.com")
        assert [part.get_filename() for part in anna.message.iter_attachments()] == ["report.txt"]
    assert told["health"] is True
    assert told["wrongKey"] == "InvalidGrantError"
    assert told["tokens"]["expiresIn"] == 3600
    assert told["tokens"]["hidden"] is True
    _assert_plain(told)
    assert told["template"]["subject"] == "Welcome, Cy"
    assert told["template"]["templateId"] == pushed.json()["id"]
    assert told["template"]["content"] == {"firstName": "Cy", "snake_case": 1, "creationTimestamp": 5}
    assert (told["refused"], told["invalid"]) == ("FieldFormatError", "InvalidRqlError")
    assert told["bySubject"] == told["plain"]["id"]
    assert told["byContent"] == told["template"]["id"]
    assert told["none"] is None
    assert told["page"] == {"page": {"total": 2, "offset": 1, "limit": 1}, "data": [_subject(told["plain"])]}
    assert told["combined"] == 2
    assert told["many"] == 53
    assert told["tracked"] == [{"affectedRecords": 1}] * 2
    assert told["views"] == 2
    queued = told["outbound"]["data"][0]
    assert queued["status"] in ("queued", "sending"), "it is tried again and again"
    assert (queued["to"], queued["text"]) == (["later@example.com"], "later")
    assert told["refreshed"] == 56


def _assert_plain(told: Any) -> None:
    mail = told["found"]
    assert mail["id"] == told["plain"]["id"]
    assert mail["creatorId"] == owner_uuid("acme")
    assert mail["awsMessageId"] == "abc123"
    assert mail["recipients"] == {"to": ["anna@example.com"], "bcc": ["ben@example.com"]}
    assert (mail["from"], mail["replyTo"]) == ("news@example.com", ["support@example.com"])
    assert (mail["subject"], mail["body"], mail["views"]) == ("A, (b) & 100% c", "plain text", 0)
    assert "attachments" not in mail
    # Dates, of numbers: what the SDK makes of milliseconds.
    assert mail["creationTimestamp"].endswith("Z")
    assert mail["creationTimestamp"] < mail["updateTimestamp"]
    assert told["plain"] | {"awsMessageId": "abc123", "updateTimestamp": mail["updateTimestamp"]} == mail


def _subject(mail: Any) -> Any:
    return {"id": mail["id"], "subject": mail["subject"]}


async def _session(sdk: Path, **env: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        "node",
        str(sdk / "session.mjs"),
        env={"PATH": os.environ["PATH"], "SDK_FOLDER": str(sdk), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
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
    """The HTML that Cy got, for whoever plays Cy's mail client."""

    async def show(_: web.Request) -> web.Response:
        body = world.got("cy@example.com")[0].message.get_body(("html",))
        assert body is not None
        return web.Response(text=body.get_content())

    async with http_server(show) as port:
        yield f"http://127.0.0.1:{port}/"
