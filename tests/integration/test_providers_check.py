"""`mailfold providers check`: it tells correct settings from each wrong one, leaves nothing behind, shows no secret."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator

from aiohttp import web

from pipeline import admin
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.operations.checks import sending, webhook
from pipeline.operations.checks.finding import Finding
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from tests.support.command import mailfold_on
from tests.support.gateway import Gateway, gateway
from tests.support.http_server import http_server
from tests.support.posting import KINDS, key
from tests.support.seeing import records, until
from tests.support.smtp_receiver import password_is, smtp_receiver
from topics.registry import PROVIDER_WEBHOOKS


@contextlib.asynccontextmanager
async def reachable(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway whose public URL leads to it."""
    port = find_free_port()
    async with gateway(settings, port=port, public_url=f"http://127.0.0.1:{port}") as world:
        yield world


async def add(world: Gateway, row: admin.Provider) -> admin.Provider:
    await admin.add_provider(world.rt.pool, row, secret_ring(world.rt.settings))
    return row


async def looked_at(world: Gateway, row: admin.Provider, **changed: object) -> list[Finding]:
    settings = world.rt.settings.model_copy(update=changed)
    return [finding async for finding in webhook.check(row, world.rt.pool, settings)]


def wrong(findings: list[Finding]) -> str:
    return "; ".join(f"{finding.text} -> {finding.todo}" for finding in findings if finding.verdict == "wrong")


def right(findings: list[Finding]) -> str:
    return "; ".join(finding.text for finding in findings if finding.verdict == "right")


async def test_check_reports_a_working_provider_without_secrets(settings: Settings) -> None:
    async with reachable(settings) as world, smtp_receiver(**password_is("me", "s3cr3t-password")) as smtp:
        on, where = world.rt.settings, ["--host", "127.0.0.1", "--port", str(smtp.port)]
        said = await mailfold_on(
            on,
            *("providers", "add", "mine", "--kind", "mailgun", *where, "--username", "me", "--password-env", "-"),
            *("--webhook-key-env", "-"),
            stdin="s3cr3t-password\ns3cr3t-key\n",
        )
        assert said.code == 0, said.err
        rotate = ("providers", "rotate", "mine", "--webhook-key-env", "-")
        assert (await mailfold_on(on, *rotate, stdin="s3cr3t-newer\n")).code == 0
        said = await mailfold_on(on, "providers", "check", "mine")
        assert (said.code, said.err) == (0, "")
        for words in (
            "greets us",
            "as me",
            "key 1 of 2 comes through",
            "key 2 of 2 comes through",
            "no webhook came yet",
        ):
            assert words in said.out
        listed = await mailfold_on(on, "providers", "list")
        assert listed.out.split()[-2:] == ["8", "2"]
        assert "s3cr3t" not in said.out + listed.out
        assert await records(settings, PROVIDER_WEBHOOKS) == []
        assert smtp.mails == []


async def test_check_signs_for_shared_secrets_and_shows_the_last_webhook_of_others(settings: Settings) -> None:
    async with reachable(settings) as world:
        for kind in KINDS:
            by = key(kind)
            row = await add(world, admin.Provider(kind, "127.0.0.1", kind=kind, webhook_keys=(by.entered,)))
            findings = await looked_at(world, row)
            assert wrong(findings) == ""
            if kind not in ("sendgrid", "postal"):
                assert "key 1 of 1 comes through the URL and is believed" in right(findings)
                continue
            assert f"only {kind} can sign" in findings[-2].text
            signed = by.make(b'{"event": "test"}', "")
            await world.http.post(f"/webhooks/{kind}", content=signed.body, headers=signed.headers)
            await world.http.post(f"/webhooks/{kind}", content=b"forged", headers=signed.headers)

            async def both_recorded(row: admin.Provider = row) -> bool:
                findings = await looked_at(world, row)
                return "the last webhook came" in right(findings) and "one was refused" in findings[-1].text

            await until(both_recorded)


async def test_check_names_the_problem_of_a_webhook(settings: Settings) -> None:
    async with reachable(settings) as world, elsewhere() as other:
        row = await add(world, admin.Provider("mine", "127.0.0.1", kind="mandrill", webhook_keys=("right",)))
        unset = await add(world, admin.Provider("unset", "127.0.0.1", kind="mandrill"))
        assert "no webhook key is set" in wrong(await looked_at(world, unset))
        mistaken = admin.Provider("mine", "127.0.0.1", kind="mandrill", webhook_keys=("wrong",))
        assert "is refused (403): the webhook's signature is not" in wrong(await looked_at(world, mistaken))
        unknown = admin.Provider("unknown", "127.0.0.1", kind="mandrill", webhook_keys=("right",))
        assert "knows no provider unknown" in wrong(await looked_at(world, unknown))
        assert "nobody answers at the URL" in wrong(await looked_at(world, row, public_url="http://127.0.0.1:1"))
        # A page that says 200 to everything is no gateway of ours.
        assert "something else answers" in wrong(await looked_at(world, row, public_url=other))
        wrong_kind = admin.Provider("ours", "127.0.0.1", kind="sendgrid", webhook_keys=(key("postal").entered,))
        await add(world, wrong_kind)
        assert "key 1 of 1 can verify nothing: the webhook key is not a P-256" in wrong(
            await looked_at(world, wrong_kind)
        )
        password = admin.Provider("mine", "127.0.0.1", kind="postmark", webhook_keys=("a:b",))
        assert "that is no https" in wrong(await looked_at(world, password, public_url="http://mail.example:1"))


async def test_check_names_the_problem_of_a_server_or_an_api(settings: Settings) -> None:
    async def problem_of(row: admin.Provider) -> str:
        return wrong(await sending.check(row, settings))

    async with smtp_receiver(**password_is("me", "right")) as smtp, elsewhere(401) as api:
        provider = admin.Provider("mine", "127.0.0.1", smtp.port, username="me", password="right")
        assert await problem_of(provider) == ""
        assert "at auth: 535" in await problem_of(dataclasses.replace(provider, password="wrong"))
        assert "offers no STARTTLS" in await problem_of(dataclasses.replace(provider, tls="required"))
        assert "at connect" in await problem_of(dataclasses.replace(provider, port=1))
        postmark = admin.Provider("mine", kind="postmark", via="api", password="wrong", api_url=api)
        assert "refuses us" in await problem_of(postmark)
        assert "does not answer" in await problem_of(dataclasses.replace(postmark, api_url="http://127.0.0.1:1"))
        assert "mail goes there by SMTP" in await problem_of(dataclasses.replace(postmark, kind="mandrill"))


@contextlib.asynccontextmanager
async def elsewhere(status: int = 200) -> AsyncIterator[str]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text="welcome")

    async with http_server(answer) as port:
        yield f"http://127.0.0.1:{port}"
