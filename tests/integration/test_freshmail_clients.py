"""FreshMail's clients against a running gateway: the official Python client, PHP as the official one, OkHttp."""

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

pytestmark = pytest.mark.timeout(300)  # the first time, clients are fetched


async def run(served: Gateway, *command: str, body: bytes = b"", **env: str) -> str:
    """What a client's session prints."""
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


def assert_registered(data: Any, *recipients: str) -> None:
    assert [one["email"] for one in data] == list(recipients)
    assert all(UUID.fullmatch(one["id"]) for one in data)


@pytest.fixture(scope="module")
def python_client() -> Path:
    """The folder of the official Python client, as pinned by its hash; fetched once."""
    pins = FOLDER / "requirements.txt"
    folder = CACHE / f"python-{digest(pins)}"
    if not folder.exists():
        aside = folder.with_suffix(f".{os.getpid()}")
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", "install")
        command = (*pip, "--no-deps", "--require-hashes", "--target", str(aside), "-r", str(pins))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        if not folder.exists():
            aside.replace(folder)
    return folder


@pytest.fixture(scope="module")
def okhttp() -> tuple[str, ...]:
    """The command that runs the document's OkHttp example; jars from Maven Central as pinned, compiled once."""
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
        told = json.loads(await run(served, sys.executable, str(FOLDER / "session.py"), PYTHONPATH=str(python_client)))
        found = {request.recipient: request for request in await requests(settings)}
        said = await contents(settings)
    assert told["success"] is True
    assert_registered(told["data"], "anna@example.com", "ben@example.com")
    assert told["invalid"] == {"errors": {"Recipients[1].email": NO_ADDRESS}}
    assert isinstance(told["login"]["errors"], list)
    anna, ben = (said[pointer(found[f"{name}@example.com"])] for name in ("anna", "ben"))
    assert [found[f"{name}@example.com"].subject for name in ("anna", "ben")] == ["Hello Anna", "Hello Ben"]
    assert (anna.html, anna.text, anna.headers) == (
        "<b>Your code: A1</b>",
        "Your code: A1",
        (("X-Campaign", "spring"),),
    )
    assert (ben.html, ben.headers, ben.attachments) == ("<b>Your code: </b>", (("X-Campaign", "ben"),), FILE)


async def test_php_requests_of_the_official_client_send_and_read_errors(settings: Settings) -> None:
    php = shutil.which("php")
    if php is None:
        pytest.skip("php not installed: requests as of the official PHP client can't be made")
    documented = (GOLDEN / "as_documented.body.json").read_bytes()
    async with gateway(settings) as served:
        told = json.loads(await run(served, php, str(FOLDER / "session.php"), body=documented))
        found = {request.recipient: request for request in await requests(settings)}
        said = await contents(settings)
    assert told["sent"]["success"] is True
    assert_registered(told["sent"]["data"], "anna@example.com", "ben@example.com")
    invalid = {"Subject": "Expected str, got null.", "Recipients[1].email": NO_ADDRESS}
    assert (told["invalid"]["status"], told["invalid"]["data"]) == (400, {"errors": invalid})
    assert list(told["steering"]["data"]["errors"]) == ["Headers[X-Ses-Source-Arn]"]
    assert told["login"]["status"] == 401
    assert_registered(told["documented"]["data"], "recipient@example.com")
    anna = found["anna@example.com"]
    assert (anna.subject, anna.reply_to) == ("Hello Anna", ("replies@example.com",))
    assert found["ben@example.com"].subject == "Hello "
    assert said[pointer(anna)].html == "<style>@media all{#a{color:red}}</style>Code: A1"
    assert said[pointer(anna)].headers == (("X-Campaign_Name", "spring"),)
    assert said[pointer(anna)].attachments == FILE


@pytest.mark.parametrize("name", ["as_documented", "as_documented_for_two"])
async def test_okhttp_posts_the_documented_examples(settings: Settings, okhttp: tuple[str, ...], name: str) -> None:
    expected = json.loads((GOLDEN / f"{name}.expected.json").read_text())
    body = (GOLDEN / f"{name}.body.json").read_bytes()
    async with gateway(settings) as served:
        taken, refused = (await run(served, *okhttp, body=body)).splitlines()
    assert int(taken.partition(" ")[0]) == expected["status"] == 201
    assert_registered(json.loads(taken.partition(" ")[2]), *[one["email"] for one in expected["answer"]])
    assert refused.startswith('401 {"errors":[')
