"""A whole stack for an abuse run, as `mailfold up` starts it, with an innocent tenant and a hostile one."""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import aiosmtplib
from pydantic import SecretStr

from pipeline import admin
from pipeline.cli.up import create_defaults
from pipeline.devstack.sandbox.keys import SIGNATURE_HEADER, TIMESTAMP_HEADER, private_key, sign
from pipeline.devstack.supervisor import Stack
from pipeline.runtime.postgres.database import Pool, open_database
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from tests.support.fasttrack import message

INNOCENT, HOSTILE = "innocent", "hostile"
FOREIGN_TOPIC_PROVIDER: Final = "amazon"
REQUEST_TIMEOUT_S: Final = 30.0
HOSTILE_RATE: Final = 25.0
"""Emails a second that the hostile tenant may send (`mailfold tenants add --rate`). How many emails a tenant sends is
its rate's affair, and two cores carry about a hundred; what each request costs others is measured here."""


@dataclass
class Running:
    """The stack and how to talk to it."""

    stack: Stack
    pool: Pool
    http: aiohttp.ClientSession
    keys: Mapping[str, str]
    """By tenant."""

    @property
    def settings(self) -> Settings:
        return self.stack.settings

    @property
    def gateway(self) -> str:
        return f"http://{self.settings.host}:{self.settings.port}"

    async def request(
        self, method: str, path: str, body: Any = b"", *, tenant: str = HOSTILE, **headers: str
    ) -> tuple[int, bytes]:
        """Status and body; status 0 where nobody answered in time."""
        given = {"X-Api-Key": self.keys[tenant], "Content-Type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        url = self.gateway + path
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with self.http.request(
                method, url, data=body, headers=given, timeout=timeout, allow_redirects=False
            ) as answer:
                return answer.status, await answer.read()
        return 0, b""

    async def webhook(self, body: bytes, *, chunked: bool = False) -> int:
        """Post a webhook as the sandbox signs it; the status."""
        stamp = str(int(time.time()))
        headers = {TIMESTAMP_HEADER: stamp, SIGNATURE_HEADER: sign(private_key(self.settings.data_dir), stamp, body)}
        path = f"/webhooks/{self.settings.sandbox_provider}"
        sent = _pieces(body) if chunked else body
        status, _ = await self.request("POST", path, sent, **{k.replace("-", "_"): v for k, v in headers.items()})
        return status

    async def mail(self, to: str, content: bytes) -> None:
        """Hand a mail to the listener; whatever comes of it."""
        with contextlib.suppress(aiosmtplib.SMTPException, OSError):
            connection = aiosmtplib.SMTP(
                hostname=self.settings.inbound_host,
                port=self.settings.inbound_port,
                start_tls=False,
                timeout=REQUEST_TIMEOUT_S,
            )
            async with connection as client:
                await client.ehlo()
                await client.mail("")
                await client.rcpt(to)
                await client.data(content)

    async def email_of(self, tenant: str, identity: str) -> str:
        """Send one email that stays without events; its id."""
        body = [message(identity, email=f"{identity}+silent@example.test")]
        _, answer = await self.request("POST", "/channels/email/batch", json.dumps(body).encode(), tenant=tenant)
        return str(json.loads(answer)["successful"][0]["email_id"])


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    yield body


@contextlib.asynccontextmanager
async def running(folder: Path, tell: Callable[[str], None]) -> AsyncIterator[Running]:
    """Start everything in a folder of its own; stop it at the end."""
    settings = Settings(
        kafka_bootstrap="",
        database_url=SecretStr(""),
        secret=SecretStr(""),
        data_dir=folder,
        topic_prefix="",
        partitions=4,
        port=0,
        inbound_host="127.0.0.1",
        inbound_port=0,
        sandbox_smtp_port=0,
        sandbox_http_port=0,
        allow_private_destinations=True,
        log_level="WARNING",
    )
    keys: dict[str, str] = {}

    async def prepare(furnished: Settings) -> None:
        await create_defaults(furnished)
        async with open_database(furnished, size=1) as pool:
            keys.update(await _tenants(pool, furnished))

    async with (
        Stack(settings, tell=tell, prepare=prepare) as stack,
        open_database(stack.settings, size=2) as pool,
        aiohttp.ClientSession() as http,
    ):
        yield Running(stack, pool, http, keys)


async def _tenants(pool: Pool, settings: Settings) -> dict[str, str]:
    """Two tenants with a provider of their own each; both lead to the sandbox, which tells of the innocent's emails."""
    secret, host, port = secret_ring(settings), settings.sandbox_host, settings.sandbox_smtp_port
    await admin.add_provider(pool, admin.Provider("of-hostile", host, port, tls="off"), secret)
    topic = "arn:aws:sns:eu-west-1:1:ours"
    row = admin.Provider(FOREIGN_TOPIC_PROVIDER, host, port, kind="ses", webhook_keys=(topic,))
    await admin.add_provider(pool, row, secret)
    keys = {}
    for tenant, provider in ((INNOCENT, settings.sandbox_provider), (HOSTILE, "of-hostile")):
        rate = HOSTILE_RATE if tenant == HOSTILE else None
        await admin.add_tenant(pool, admin.Tenant(tenant, rate_per_second=rate))
        await admin.add_brand(pool, admin.Brand(tenant, "*", provider))
        keys[tenant] = await admin.add_key(pool, tenant)
    return keys
