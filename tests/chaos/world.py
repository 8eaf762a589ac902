"""A whole Mailfold under test, from outside: its processes, its sinks, and a ledger of what they saw.

Shares no code with the product: commands are started as a user would, the SMTP sink and the Fast
Track receiver are plain servers that log what arrived, webhooks are signed here.
"""

import asyncio
import base64
import contextlib
import email
import email.policy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiosmtpd.controller import Controller
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROLES = ("gateway", "worker", "dispatch", "project", "emit")


@dataclass
class Ledger:
    """What was sent, accepted, handed over and told, in order of arrival."""

    accepted: dict[str, str] = field(default_factory=dict)
    """activity.id -> email_id."""
    mails: list[tuple[str, str, str]] = field(default_factory=list)
    """(recipient, Message-ID, HTML) of every mail that the sink answered 250."""
    conversions: list[tuple[str, str, str, str]] = field(default_factory=list)
    """(email_id, word, Idempotency-Key, activity as raw JSON text)."""
    crashes: list[str] = field(default_factory=list)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Sink:
    """An SMTP server that takes everything but what begins with `nobody`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        if address.startswith("nobody"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        part = message.get_body(("html",))
        html = part.get_content() if part is not None else ""
        self.ledger.mails.append((envelope.rcpt_tos[0], str(message["Message-ID"]), html))
        return "250 ok"


class World:
    """The processes and how to talk to them."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self.folder = folder
        self.env = env
        self.ledger = Ledger()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.role_env: dict[str, dict[str, str]] = {}
        self.gateway = f"http://127.0.0.1:{env['MAILFOLD_PORT']}"
        self.key = ""
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.receiver_port = free_port()
        self.smtp_port = free_port()
        self.stopping = False

    def cli(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"mailfold {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def public_key(self) -> str:
        der = self._private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return base64.b64encode(der).decode()

    def start(self, role: str) -> None:
        log = (self.folder / f"{role}.log").open("ab")
        self.processes[role] = subprocess.Popen(
            [sys.executable, "-m", "pipeline", role],
            env={**self.env, **self.role_env.get(role, {})},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()

    async def supervise(self) -> None:
        """Start again whatever died, as a supervisor would."""
        while not self.stopping:
            for role, process in list(self.processes.items()):
                if process.poll() is not None and not self.stopping:
                    self.ledger.crashes.append(role)
                    await asyncio.sleep(0.2)
                    self.start(role)
            await asyncio.sleep(0.05)

    def stop(self) -> dict[str, float]:
        """SIGTERM to all; how long each took."""
        self.stopping = True
        began = time.monotonic()
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        took: dict[str, float] = {}
        for role, process in self.processes.items():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            took[role] = time.monotonic() - began
        return took

    async def post_batch(self, http: aiohttp.ClientSession, messages: list[str]) -> None:
        """Post until every message is answered `successful`, as Fast Track would."""
        left = {json.loads(message)["activity"]["id"]: message for message in messages}
        deadline = time.monotonic() + 60
        while left:
            assert time.monotonic() < deadline, f"not accepted in time: {sorted(left)[:5]}"
            body = "[" + ",".join(left.values()) + "]"
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.post(
                    f"{self.gateway}/channels/email/batch",
                    data=body,
                    headers={"X-Api-Key": self.key, "Content-Type": "application/json"},
                    timeout=aiohttp.ClientTimeout(total=10),
                ) as response:
                    if response.status == 200:
                        answer = json.loads(await response.read())
                        assert not answer["failed"], answer["failed"][:3]
                        for row in answer["successful"]:
                            before = self.ledger.accepted.setdefault(row["id"], row["email_id"])
                            assert before == row["email_id"]
                            left.pop(row["id"], None)
                        continue
            await asyncio.sleep(0.2)

    async def post_events(self, http: aiohttp.ClientSession, events: list[dict[str, Any]]) -> None:
        """Post a signed webhook until it is taken, as a provider would."""
        body = json.dumps(events).encode()
        deadline = time.monotonic() + 60
        while True:
            stamp = str(int(time.time()))
            signature = self._private.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
            headers = {
                "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
                "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
                "Content-Type": "application/json",
            }
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.post(
                    f"{self.gateway}/webhooks/sandbox",
                    data=body,
                    headers=headers,
                    timeout=aiohttp.ClientTimeout(total=10),
                ) as response:
                    if response.status < 300:
                        return
            assert time.monotonic() < deadline, "a webhook was never taken"
            await asyncio.sleep(0.2)

    async def receive(self, request: web.Request) -> web.Response:
        """Fast Track: log and answer 200."""
        text = (await request.read()).decode()
        body = json.loads(text)
        raw = re.search(r'"activity"\s*:\s*(\{.*?\})\s*,\s*"(?:email_id|delivery_status)"', text, re.DOTALL)
        self.ledger.conversions.append(
            (
                body["email_id"],
                body["delivery_status"],
                request.headers.get("Idempotency-Key", ""),
                raw[1] if raw else "",
            )
        )
        return web.json_response({})


@contextlib.asynccontextmanager
async def world(env: dict[str, str], folder: Path, role_env: dict[str, dict[str, str]]) -> AsyncIterator[World]:
    """A running world with one tenant, two brands, an SMTP sink and a receiver."""
    made = World({**os.environ, **env, "MAILFOLD_PORT": str(free_port())}, folder)
    made.env["MAILFOLD_PUBLIC_URL"] = made.gateway
    made.role_env = role_env
    made.cli("migrate")
    made.cli("tenants", "add", "acme")
    found = re.search(r"mf_[\w-]+", made.cli("keys", "add", "acme"))
    assert found is not None
    made.key = found[0]
    provider = f"providers add sandbox --kind sandbox --host 127.0.0.1 --port {made.smtp_port}"
    made.cli(*provider.split(), "--webhook-key", made.public_key())
    made.cli("brands", "add", "*", "--tenant", "acme", "--provider", "sandbox")
    url = f"http://127.0.0.1:{made.receiver_port}"
    made.cli("destinations", "add", url, "--tenant", "acme", "--key-env", "FAST_TRACK_KEY")
    app = web.Application()
    app.router.add_post("/email/conversion", made.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", made.receiver_port).start()
    smtp = Controller(Sink(made.ledger), hostname="127.0.0.1", port=made.smtp_port)
    smtp.start()
    for role in ROLES:
        made.start(role)
    watcher = asyncio.create_task(made.supervise())
    try:
        yield made
    finally:
        made.stop()
        await watcher
        smtp.stop()
        await runner.cleanup()


async def eventually(what: str, check: Callable[[], Awaitable[bool] | bool], patience: float = 60.0) -> None:
    """Poll until true; say what was waited for if it never is."""
    deadline = time.monotonic() + patience
    while True:
        result = check()
        if result if isinstance(result, bool) else await result:
            return
        assert time.monotonic() < deadline, f"never came true within {patience:.0f} s: {what}"
        await asyncio.sleep(0.1)
