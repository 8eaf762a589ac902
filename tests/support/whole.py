"""Run a whole Mailfold: the gateway in this process, the other roles as processes, mail to a real SMTP server."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx

from pipeline import admin
from pipeline.admin import Brand, Provider
from pipeline.devstack.supervisor import Stack
from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.settings import Settings
from tests.support.gateway import Gateway, gateway
from tests.support.smtp_receiver import Received, Receiver, smtp_receiver


class Whole:
    """A running Mailfold and the server that receives its mail."""

    def __init__(self, served: Gateway, inbox: Receiver) -> None:
        self.served = served
        self.inbox = inbox

    @property
    def http(self) -> httpx.AsyncClient:
        return self.served.http

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.served.key}"}

    def got(self, recipient: str) -> list[Received]:
        return self.inbox.to(recipient)


@contextlib.asynccontextmanager
async def whole(settings: Settings, **changed: Any) -> AsyncIterator[Whole]:
    """Run gateway, worker, dispatcher and projector, with a tenant `acme` whose brands all send to the inbox."""
    async with smtp_receiver() as inbox, gateway(settings, **changed) as served:
        port = inbox.port
        await admin.add_provider(
            served.rt.pool, Provider("local", "127.0.0.1", port, tls="off"), SecretRing.of("s" * 32)
        )
        await admin.add_brand(served.rt.pool, Brand("acme", "*", "local"))
        async with Stack(settings, roles=["worker", "dispatch", "project"]):
            yield Whole(served, inbox)
