"""What `mailfold up` creates at its start, and what it leaves to the operator."""

from pipeline import admin
from pipeline.cli.up import API_KEY_FILE, TENANT, create_defaults
from pipeline.devstack.servers.data_dir import DataDir
from pipeline.runtime.postgres.database import open_database
from pipeline.settings import Settings
from tests.support.job_rows import ask


async def test_default_tenant_that_was_deleted_does_not_come_back(settings: Settings) -> None:
    async with open_database(settings, size=1) as pool:
        await ask(pool, "insert into admin.deleted_tenants (tenant) values (%s) returning 1", TENANT)
        await create_defaults(settings)
        assert await ask(pool, "select tenant from admin.tenants") == []
        assert DataDir(settings.data_dir).read_secret(API_KEY_FILE) == ""
        assert await ask(pool, "select kind from admin.providers") == [("sandbox",)]


async def test_default_tenant_beside_another_must_verify_its_senders(settings: Settings) -> None:
    async with open_database(settings, size=1) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        for _ in range(2):
            await create_defaults(settings)
        assert await ask(pool, "select tenant, verified_senders from admin.tenants order by 1") == [
            ("acme", False),
            (TENANT, True),
        ]
