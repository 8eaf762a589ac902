"""The scripts that make Mailfold's own role for docker-compose.yml and check it, on a real Postgres."""

import asyncio
import os
import subprocess
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from pydantic import SecretStr

from pipeline.devstack.servers import postgres
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.devstack.servers.postgres_programs import find_programs
from pipeline.runtime.postgres.database import open_database
from pipeline.runtime.postgres.schema import migrate_database
from pipeline.settings import Settings
from tests.architecture.repository import ROOT

FOLDER = "deploy/compose"
PASSWORD = 'it\'s a "password"'


async def test_role_of_the_script_is_no_superuser_and_owns_a_database_that_can_be_migrated(server_folder: Path) -> None:
    # A server of its own, because roles belong to a server and not to a database.
    server, url = postgres.start(server_folder / "compose", find_free_port())
    try:
        at = urlsplit(url)
        environment = {
            "PATH": f"{find_programs()}:{os.environ['PATH']}",
            "PGHOST": str(at.hostname),
            "PGPORT": str(at.port),
            "PGPASSWORD": str(at.password),
            "MAILFOLD_DATABASE_PASSWORD": PASSWORD,
        }

        def run(name: str, **changed: str) -> "subprocess.CompletedProcess[str]":
            given = environment | changed
            return subprocess.run([ROOT / FOLDER / name], env=given, capture_output=True, text=True, check=False)

        assert await asyncio.to_thread(postgres.is_ready, url), "pg_isready would be content"
        assert (await asyncio.to_thread(run, "check-role.sh")).returncode != 0
        done = await asyncio.to_thread(run, "create-role.sh")
        assert done.returncode == 0, done.stderr
        healthy = await asyncio.to_thread(run, "check-role.sh")
        assert (healthy.returncode, healthy.stdout) == (0, ""), healthy.stderr
        wrong = await asyncio.to_thread(partial(run, "check-role.sh", MAILFOLD_DATABASE_PASSWORD="another"))
        assert wrong.returncode != 0
        own = psycopg.conninfo.make_conninfo(
            host=at.hostname, port=at.port, user="mailfold", password=PASSWORD, dbname="mailfold"
        )
        settings = Settings(database_url=SecretStr(own))
        await migrate_database(settings)
        async with open_database(settings) as pool, pool.connection() as connection:
            query = (
                "select rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls"
                " from pg_roles where rolname = current_user"
            )
            assert await (await connection.execute(query)).fetchone() == (False,)
    finally:
        postgres.stop(server)
