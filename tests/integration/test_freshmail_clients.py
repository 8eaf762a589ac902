"""Run FreshMail's clients against a gateway: the official Python client, PHP like the official one, and OkHttp."""

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.peers.toolbox import COMPILER, java
from pipeline.devstack.servers.jars import mismatched_jars
from pipeline.settings import Settings
from tests.integration.test_freshmail import contents, pointer, requests
from tests.support.gateway import Gateway, gateway
from topics.contents import Attachment

FOLDER = Path(__file__).parent / "freshmail_clients"
GOLDEN = Path(__file__).parents[1] / "golden" / "freshmail"
CACHE = Path(sys.prefix) / "freshmail-clients"
OKHTTP = "com.squareup.okhttp3:okhttp:4.12.0"
SESSION_TIMEOUT_S = 100.0
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FILE = (Attachment(filename="a.txt", media_type="text/plain", data=b"file"),)
NO_ADDRESS = "This value is not a valid email address."

pytestmark = pytest.mark.timeout(300)  # the first run downloads the clients


async def run(served: Gateway, *command: str, body: bytes = b"", **env: str) -> str:
    """Run a client's session and return its output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={"PATH": os.environ["PATH"], "HOST": served.http.base_url.netloc.decode(), "TOKEN": served.key, **env},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(body), SESSION_TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def assert_accepted(results: Any, *recipients: str) -> None:
    assert [result["email"] for result in results] == list(recipients)
    assert all(UUID.fullmatch(result["id"]) for result in results)


@pytest.fixture(scope="module")
def python_client() -> Path:
    """Return the folder of the official Python client, pinned by its hash and downloaded once."""
    pins = FOLDER / "requirements.txt"
    folder = CACHE / f"python-{digest(pins)}"
    if not folder.exists():
        temporary = folder.with_suffix(f".{os.getpid()}")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", "install")
        command = (*pip, "--no-deps", "--require-hashes", "--target", str(temporary), "-r", str(pins))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        if not folder.exists():
            temporary.replace(folder)
    return folder


@pytest.fixture(scope="module")
def okhttp() -> tuple[str, ...]:
    """Return the command that runs the documented OkHttp example, compiled once with pinned jars of Maven Central."""
    import jgo

    jars = [Path(jar) for jar in jgo.build(OKHTTP).all_jars]
    compiler = [Path(jar) for jar in jgo.build(COMPILER).all_jars]
    lines = (FOLDER / "okhttp-jars.sha256").read_text().splitlines()
    assert mismatched_jars([*jars, *compiler], {name: pinned for pinned, name in map(str.split, lines)}) == []
    source = FOLDER / "Session.java"
    classes = CACHE / f"okhttp-{digest(source)}"
    classpath = os.pathsep.join(map(str, jars))
    command = (java(), "-jar", str(compiler[0]), "-17", "-proc:none", "-nowarn", "-cp", classpath, "-d", str(classes))
    subprocess.run((*command, str(source)), check=True, capture_output=True, timeout=120)
    return (java(), "-cp", os.pathsep.join((str(classes), classpath)), "Session")


async def test_official_python_client_sends_and_reads_errors(settings: Settings, python_client: Path) -> None:
    async with gateway(settings) as served:
        results = json.loads(
            await run(served, sys.executable, str(FOLDER / "session.py"), PYTHONPATH=str(python_client))
        )
        by_recipient = {request.recipient: request for request in await requests(settings)}
        stored = await contents(settings)
    assert results["success"] is True
    assert_accepted(results["data"], "anna@example.com", "ben@example.com")
    assert results["invalid"] == {"errors": {"Recipients[1].email": NO_ADDRESS}}
    assert isinstance(results["login"]["errors"], list)
    anna, ben = (stored[pointer(by_recipient[f"{name}@example.com"])] for name in ("anna", "ben"))
    assert [by_recipient[f"{name}@example.com"].subject for name in ("anna", "ben")] == ["Hello Anna", "Hello Ben"]
    assert (anna.html, anna.text, anna.headers) == (
        "<b>Your code: A1</b>",
        "Your code: A1",
        (("X-Campaign", "spring"),),
    )
    assert (ben.html, ben.headers, ben.attachments) == ("<b>Your code: </b>", (("X-Campaign", "ben"),), FILE)


async def test_php_requests_of_the_official_client_send_and_read_errors(settings: Settings) -> None:
    php = shutil.which("php")
    if php is None:
        pytest.skip("php is not installed, so requests of the official PHP client can't be made")
    documented = (GOLDEN / "as_documented.body.json").read_bytes()
    async with gateway(settings) as served:
        results = json.loads(await run(served, php, str(FOLDER / "session.php"), body=documented))
        by_recipient = {request.recipient: request for request in await requests(settings)}
        stored = await contents(settings)
    assert results["sent"]["success"] is True
    assert_accepted(results["sent"]["data"], "anna@example.com", "ben@example.com")
    invalid = {"Subject": "Expected str, got null.", "Recipients[1].email": NO_ADDRESS}
    assert (results["invalid"]["status"], results["invalid"]["data"]) == (400, {"errors": invalid})
    assert list(results["steering"]["data"]["errors"]) == ["Headers[X-Ses-Source-Arn]"]
    assert results["login"]["status"] == 401
    assert_accepted(results["documented"]["data"], "recipient@example.com")
    anna = by_recipient["anna@example.com"]
    assert (anna.subject, anna.reply_to) == ("Hello Anna", ("replies@example.com",))
    assert by_recipient["ben@example.com"].subject == "Hello "
    assert stored[pointer(anna)].html == "<style>@media all{#a{color:red}}</style>Code: A1"
    assert stored[pointer(anna)].headers == (("X-Campaign_Name", "spring"),)
    assert stored[pointer(anna)].attachments == FILE


@pytest.mark.parametrize("name", ["as_documented", "as_documented_for_two"])
async def test_okhttp_posts_the_documented_examples(settings: Settings, okhttp: tuple[str, ...], name: str) -> None:
    expected = json.loads((GOLDEN / f"{name}.expected.json").read_text())
    body = (GOLDEN / f"{name}.body.json").read_bytes()
    async with gateway(settings) as served:
        accepted, refused = (await run(served, *okhttp, body=body)).splitlines()
    assert int(accepted.partition(" ")[0]) == expected["status"] == 201
    assert_accepted(json.loads(accepted.partition(" ")[2]), *[result["email"] for result in expected["answer"]])
    assert refused.startswith('401 {"errors":[')
