"""A database knows its secrets: foreign ones are refused, and credentials are sealed anew after a rotation."""

import pytest
from pydantic import SecretStr

from pipeline import admin
from pipeline.admin import Brand, Destination, Provider
from pipeline.admin.sealing import CLEAR_TEXT, count_credentials, reseal_credentials
from pipeline.content import dkim
from pipeline.content.dkim import DkimKey
from pipeline.dispatch.routing.routes import get_brand_routing, set_dkim
from pipeline.errors import InvalidSettings
from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.postgres.database import open_database
from pipeline.runtime.secrets.secret_fingerprints import accept_secrets
from pipeline.runtime.secrets.secret_ring import NamedSecret, SecretRing
from pipeline.settings import Settings
from tests.conftest import RING, SECRET

OTHER = "another-secret-of-at-least-32-characters"


def with_secrets(settings: Settings, text: str) -> Settings:
    return settings.model_copy(update={"secret": SecretStr(""), "secrets": SecretStr(text)})


async def start(settings: Settings) -> None:
    async with open_runtime(settings, role="emit", signals=False):
        pass


async def test_command_with_a_wrong_secret_shuts_no_role_out(settings: Settings) -> None:
    async with open_runtime(with_secrets(settings, f"1:{OTHER}"), signals=False):
        pass
    await start(settings)
    with pytest.raises(InvalidSettings, match="the secret that signs now"):
        async with open_runtime(with_secrets(settings, f"1:{OTHER}"), signals=False):
            pass


async def test_role_refuses_secrets_that_are_not_the_database_s(settings: Settings) -> None:
    await start(settings)
    with pytest.raises(InvalidSettings, match="the secret that signs now"):
        await start(with_secrets(settings, f"1:{OTHER}"))
    with pytest.raises(InvalidSettings, match="addresses would be hashed under another secret"):
        await start(with_secrets(settings, f"addresses:{OTHER} 2:{OTHER} 1:{SECRET}"))
    # Both steps of a rotation, and the deletion of the old secret after it.
    for text in (f"1:{SECRET} 2:{OTHER}", f"2:{OTHER} 1:{SECRET}", f"2:{OTHER}"):
        await start(with_secrets(settings, f"addresses:{SECRET} {text}"))
    with pytest.raises(InvalidSettings, match="the secret that signs now"):
        await start(settings)  # a host that was forgotten: nobody would recognize what it signs


async def test_lost_secret_is_given_up_by_command_only(settings: Settings) -> None:
    await start(settings)
    ours = with_secrets(settings, f"1:{OTHER}")
    async with open_database(settings, size=1) as pool:
        await accept_secrets(pool, SecretRing(NamedSecret("1", OTHER)))
    await start(ours)
    with pytest.raises(InvalidSettings, match="the secret that signs now"):
        await start(settings)


async def test_all_credentials_are_sealed_under_the_new_secret(settings: Settings) -> None:
    key = DkimKey("shop.example", "mf1", dkim.new_key(ed25519=True))
    provider = Provider("local", "127.0.0.1", 25, username="u", password="p", webhook_keys=("first", "second"))
    ring = SecretRing(NamedSecret("addresses", SECRET), NamedSecret("2", OTHER), NamedSecret("1", SECRET))
    only_new = SecretRing.of(OTHER)
    async with open_database(settings, size=2) as pool:
        await admin.add_tenant(pool, admin.Tenant("acme"))
        await admin.add_provider(pool, provider, RING)
        await admin.add_brand(pool, Brand("acme", "7", "local"))
        await admin.add_destination(pool, Destination("acme", "7", "https://example.com", "their-key"), RING)
        await set_dkim(pool, "acme", "7", key, RING)
        async with pool.connection() as connection:
            await connection.execute("update admin.providers set webhook_keys = webhook_keys || array['public']")
        assert await count_credentials(pool, ring) == {"1": 5, CLEAR_TEXT: 1}
        with pytest.raises(InvalidSettings):
            await reseal_credentials(pool, only_new)
        assert await reseal_credentials(pool, ring) == 6
        assert await count_credentials(pool, only_new) == {"1": 6}
        assert await reseal_credentials(pool, ring) == 0
        stored = await admin.get_provider(pool, "local", only_new)
        assert (stored.password, stored.webhook_keys) == ("p", ("first", "second", "public"))
        destination = await admin.get_destination(pool, "acme", "7", only_new)
        assert destination is not None
        assert destination.key == "their-key"
        assert (await get_brand_routing(pool, "acme", "7", only_new)).dkim == key
