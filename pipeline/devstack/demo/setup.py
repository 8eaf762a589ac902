"""Settings, tenant and receiver's answers for the demo's own stack; used by the demo's run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from pipeline import admin
from pipeline.devstack.demo.receiver import ReceivedConversion
from pipeline.devstack.demo.scenario import BRAND_PATHS
from pipeline.devstack.sandbox.keys import public_key
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.runtime.postgres.database import open_database
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings

TENANT: Final = "demo"
STEP_INTERVAL_S: Final = 1.0
"""Seconds between delivery, open, click and complaint: more than Mailfold needs, so that people see each step."""


def demo_settings(folder: Path) -> Settings:
    """Return settings of a separate stack; the environment is ignored, so that no demo writes into a real cluster."""
    gateway, smtp, http = find_free_port(), find_free_port(), find_free_port()
    return Settings(
        kafka_bootstrap="",
        database_url=SecretStr(""),
        data_dir=folder,
        secret=SecretStr(""),
        topic_prefix="",
        partitions=4,
        replication_factor=1,
        host="127.0.0.1",
        port=gateway,
        public_url=f"http://127.0.0.1:{gateway}",
        console=True,
        console_port=0,
        sandbox_host="127.0.0.1",
        sandbox_smtp_port=smtp,
        sandbox_http_port=http,
        sandbox_gateway=f"http://127.0.0.1:{gateway}",
        sandbox_pace=STEP_INTERVAL_S,
        dispatch_schedule=(1.0, 1.0),
        emit_schedule=(1.0, 1.0, 2.0, 4.0, 8.0, 16.0),
        allow_private_destinations=True,
    )


async def set_up_tenant(ready: Settings, receiver: str, keys: Mapping[str, str]) -> str:
    """Create the tenant with its brands and destinations, and return its API key.

    ``receiver`` is the URL of the receiver, ``keys`` the X-API-KEY of each brand's path.
    """
    ring = secret_ring(ready)
    sandbox = admin.Provider(
        ready.sandbox_provider,
        ready.sandbox_host,
        ready.sandbox_smtp_port,
        kind="sandbox",
        webhook_keys=(public_key(ready.data_dir),),
    )
    async with open_database(ready, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant(TENANT))
        await admin.add_provider(pool, sandbox, ring)
        for number, path in BRAND_PATHS.items():
            await admin.add_brand(pool, admin.Brand(TENANT, str(number), sandbox.provider))
            destination = admin.Destination(TENANT, str(number), f"{receiver}/{path}", keys[path])
            await admin.add_destination(pool, destination, ring)
        return await admin.add_key(pool, TENANT, "demo")


def answer_policy(withhold: str) -> Callable[[ReceivedConversion, int], int]:
    """Return the receiver's policy: accept all, but answer the first click with 503 once, to show a retry.

    Conversions ``withhold``, if not empty, are refused for good; tests use it.
    """
    postponed: set[str] = set()

    def status_of(conversion: ReceivedConversion, attempt: int) -> int:
        if withhold and conversion.word == withhold:
            return 410
        if conversion.word == "click" and attempt == 1 and not postponed:
            postponed.add(conversion.email_id)
            return 503
        return 200

    return status_of
