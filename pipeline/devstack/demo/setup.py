"""The demo's own stack: a folder in; settings, a tenant with two brands and a receiver's answers out."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from pipeline import admin
from pipeline.devstack.demo.receiver import ReceivedConversion
from pipeline.devstack.demo.scenario import BRAND_PATHS
from pipeline.devstack.sandbox.keys import public_key
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.runtime.database import open_database
from pipeline.settings import Settings

TENANT: Final = "demo"
STEP_INTERVAL_S: Final = 1.0
"""Seconds between delivery, opening, click and complaint: more than the pipeline needs, so a watcher sees the steps."""


def demo_settings(folder: Path) -> Settings:
    """A stack of its own, whatever the environment says: a demo must not play in a real cluster."""
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
    """The tenant, its brands behind the sandbox, their conversions to the receiver; the tenant's API key."""
    secret = ready.secret.get_secret_value()
    sandbox = admin.Provider(
        ready.sandbox_provider,
        ready.sandbox_host,
        ready.sandbox_smtp_port,
        kind="sandbox",
        webhook_keys=(public_key(ready.data_dir),),
    )
    async with open_database(ready, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant(TENANT))
        await admin.add_provider(pool, sandbox, secret)
        for number, path in BRAND_PATHS.items():
            await admin.add_brand(pool, admin.Brand(TENANT, str(number), sandbox.provider))
            destination = admin.Destination(TENANT, str(number), f"{receiver}/{path}", keys[path])
            await admin.add_destination(pool, destination, secret)
        return await admin.add_key(pool, TENANT, "the demo's")


def answer_policy(withhold: str) -> Callable[[ReceivedConversion, int], int]:
    """200; but the first click is put off once, so that a retry is seen; and one word may be withheld, for a test."""
    put_off: set[str] = set()

    def answered(arrival: ReceivedConversion, attempt: int) -> int:
        if withhold and arrival.word == withhold:
            return 410
        if arrival.word == "click" and attempt == 1 and not put_off:
            put_off.add(arrival.email_id)
            return 503
        return 200

    return answered
