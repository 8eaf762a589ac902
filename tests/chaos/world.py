"""A complete Mailfold under test, from outside: its processes, its sinks, and a ledger of what they received.

It shares no code with the product: commands are started as a user would, the SMTP sink and the Fast Track receiver are
plain servers that record what arrived, and webhooks are signed here.
"""

import asyncio
import base64
import contextlib
import json
import os
import random
import re
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.chaos.ledger import Ledger, Post
from tests.chaos.processes import Process, Processes
from tests.chaos.servers import free_port
from tests.chaos.sinks import MailSink, Receiver, listening

ROLES = ("gateway", "worker", "dispatch", "project", "emit")
BATCH_PATH = "/channels/email/batch"
ROOT = Path(__file__).parents[2]
LEASE = 4
WINDOW = 16
"""Jobs that one process has in hand at once, which one kill may cause to be sent twice."""


def product_env(bootstrap: str, database_url: str, prefix: str, replicas: int = 1) -> dict[str, str]:
    """Return the environment of the product, with short retry schedules that never give up."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAILFOLD_")}
    again = json.dumps([0.5, 1.0, *[2.0] * 400])
    return {
        **kept,
        "KAFKA_BOOTSTRAP": bootstrap,
        "DATABASE_URL": database_url,
        "MAILFOLD_SECRET": secrets.token_hex(20),
        "MAILFOLD_TOPIC_PREFIX": prefix,
        "MAILFOLD_PARTITIONS": "4",
        "MAILFOLD_REPLICATION_FACTOR": str(replicas),
        "MAILFOLD_ALLOW_PRIVATE_DESTINATIONS": "true",
        "MAILFOLD_LEASE_SECONDS": str(LEASE),
        "MAILFOLD_DISPATCH_CONCURRENCY": str(WINDOW),
        "MAILFOLD_EMIT_CONCURRENCY": str(WINDOW),
        "MAILFOLD_EMIT_SCHEDULE": again,
        "MAILFOLD_DISPATCH_SCHEDULE": again,
        "MAILFOLD_EMIT_TIMEOUT": "5",
        "FAST_TRACK_KEY": "the-key-fast-track-gave",
    }


@dataclass
class Shape:
    """The processes, brands and source of a world."""

    counts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 1))
    role_env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Extra environment variables for a role (`worker`) or one process (`worker-2`)."""
    brands: int = 2
    tree: Path = ROOT
    """Folder of the source that runs."""


class World:
    """The processes and the means to use them."""

    def __init__(self, env: dict[str, str], folder: Path, shape: Shape) -> None:
        self.folder = folder
        self.env = env
        self.shape = shape
        self.ledger = Ledger()
        self.processes = Processes(self.ledger)
        self.receiver = Receiver(self.ledger)
        self.mails = MailSink(self.ledger)
        self.receiver_port, self.smtp_port = free_port(), free_port()
        self.gateways: list[str] = []
        self.key = ""
        self.newest_tree: Path | None = None
        """The tree of the newest version that has worked here, whose commands know every table; None: ours."""
        self._private = ec.generate_private_key(ec.SECP256R1())
        self._dice = random.Random(0)
        for role in ROLES:
            for _ in range(shape.counts.get(role, 1)):
                self.add(role)
        self.env["MAILFOLD_PUBLIC_URL"] = self.gateways[0]

    @property
    def url(self) -> str:
        return self.env["DATABASE_URL"]

    @property
    def bootstrap(self) -> str:
        """Return the address of the broker itself; roles may use the proxy instead."""
        return self.env["KAFKA_BOOTSTRAP"]

    @property
    def prefix(self) -> str:
        return self.env["MAILFOLD_TOPIC_PREFIX"]

    def add(self, role: str) -> Process:
        """Add a process of a role without starting it; it has a data folder of its own, as on another machine."""
        number = 1 + len(self.processes.of(role))
        name = f"{role}-{number}"
        extra = {**self.shape.role_env.get(role, {}), **self.shape.role_env.get(name, {})}
        extra["MAILFOLD_DATA_DIR"] = str(self.folder / name)
        if role == "gateway":
            extra["MAILFOLD_PORT"] = str(free_port())
            self.gateways.append(f"http://127.0.0.1:{extra['MAILFOLD_PORT']}")
            self.env.setdefault("MAILFOLD_PUBLIC_URL", self.gateways[0])
        process = Process(role, number, {**self.env, **extra}, self.folder, self.shape.tree)
        self.processes.all.append(process)
        return process

    @property
    def gateway(self) -> str:
        """Return the address of a random gateway, as a load balancer would choose it."""
        return self._dice.choice(self.gateways)

    def cli(self, *arguments: str, stdin: str = "", patience: float = 90, tree: Path | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            env=self.env,
            cwd=tree or self.shape.tree,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=patience,
        )
        assert done.returncode == 0, f"mailfold {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def set_up(self) -> None:
        """Create a tenant, its brands, a provider that rejects `nobody…` recipients, and a destination per brand."""
        self.cli("migrate")
        self.cli("topics", "create")
        self.cli("tenants", "add", "acme")
        found = re.search(r"mfk?_[\w-]+", self.cli("keys", "add", "acme"))
        assert found is not None
        self.key = found[0]
        provider = f"providers add sandbox --kind sandbox --host 127.0.0.1 --port {self.smtp_port}"
        self.cli(*provider.split(), "--webhook-key", self._public_key())
        self.cli("brands", "add", "*", "--tenant", "acme", "--provider", "sandbox")
        for brand in range(1, self.shape.brands + 1):
            url = f"http://127.0.0.1:{self.receiver_port}/b/{brand}"
            where = ("--tenant", "acme", "--brand", str(brand))
            self.cli("destinations", "add", url, *where, "--key-env", "FAST_TRACK_KEY")

    def _public_key(self) -> str:
        der = self._private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return base64.b64encode(der).decode()

    async def post_batch(self, http: aiohttp.ClientSession, messages: list[str], patience: float = 240) -> None:
        """Post messages until every one is answered `successful`, as Fast Track would."""
        left = {json.loads(message)["activity"]["id"]: message for message in messages}
        deadline = time.monotonic() + patience
        while left:
            if time.monotonic() > deadline:
                self.ledger.wrong.append(f"not accepted within {patience:.0f} s: {sorted(left)[:5]}")
                return
            body = "[" + ",".join(left.values()) + "]"
            headers = {"X-Api-Key": self.key, "Content-Type": "application/json"}
            status, answer = await self._post(http, BATCH_PATH, body, headers)
            if status == 200:
                self._note_accepted(json.loads(answer), left)
            else:
                await asyncio.sleep(0.3)

    def _note_accepted(self, answer: dict[str, Any], left: dict[str, str]) -> None:
        for row in answer["failed"]:
            self.ledger.wrong.append(f"refused: {row}")
            left.pop(row["id"], None)
        for row in answer["successful"]:
            before = self.ledger.accepted.setdefault(row["id"], row["email_id"])
            if before != row["email_id"]:
                self.ledger.wrong.append(f"{row['id']}: answered {before}, then {row['email_id']}")
            left.pop(row["id"], None)

    async def post_events(self, http: aiohttp.ClientSession, events: list[dict[str, Any]]) -> None:
        """Post a signed webhook until it is accepted, as a provider would."""
        body, deadline = json.dumps(events), time.monotonic() + 300
        while True:
            stamp = str(int(time.time()))
            signature = self._private.sign(stamp.encode() + body.encode(), ec.ECDSA(hashes.SHA256()))
            headers = {
                "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
                "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
                "Content-Type": "application/json",
            }
            status, _ = await self._post(http, "/webhooks/sandbox", body, headers)
            if 200 <= status < 300:
                return
            if time.monotonic() > deadline:
                self.ledger.wrong.append("a webhook was never taken")
                return
            await asyncio.sleep(0.3)

    async def _post(
        self, http: aiohttp.ClientSession, path: str, body: str, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        """Send a request and return status and body, status 0 without an answer; record any status but 2xx and 503."""
        status, answer, began = 0, b"", time.time()
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            patience = aiohttp.ClientTimeout(total=15)
            async with http.post(self.gateway + path, data=body, headers=headers, timeout=patience) as response:
                status, answer = response.status, await response.read()
        self.ledger.answers[f"{path} {status}"] += 1
        if path == BATCH_PATH:
            self.ledger.posts.append(Post(began, time.time(), status))
        if status not in (0, 503) and not 200 <= status < 300:
            self.ledger.wrong.append(f"{path} was answered {status}: {answer[:200]!r}")
        return status, answer


@contextlib.asynccontextmanager
async def world(env: dict[str, str], folder: Path, shape: Shape | None = None) -> AsyncIterator[World]:
    """Run a world until the block ends."""
    made = World(env, folder, shape or Shape())
    await asyncio.to_thread(made.set_up)
    async with listening(made.mails, made.receiver, made.smtp_port, made.receiver_port), made.processes.running():
        yield made
