"""Start and stop of the sandbox with its SMTP, webhooks and inbox; called by `mailfold sandbox`."""

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from pipeline.devstack.sandbox.api import application
from pipeline.devstack.sandbox.keys import private_key
from pipeline.devstack.sandbox.mailbox import SandboxMailbox
from pipeline.devstack.sandbox.pages import InboxHints
from pipeline.devstack.sandbox.provider import CallLater, SandboxProvider
from pipeline.devstack.sandbox.reader_bot import MAX_REQUESTS_IN_FLIGHT, ReaderBot, origin
from pipeline.devstack.sandbox.smtp import session_factory, tls_context
from pipeline.devstack.sandbox.webhook_sender import RETRY_DELAYS_S, WebhookSender
from pipeline.errors import InvalidSettings
from pipeline.runtime.ports import Clock
from pipeline.runtime.tasks import cancel_tasks
from pipeline.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningSandbox:
    """A running sandbox and where it listens."""

    provider: SandboxProvider
    smtp_port: int
    http_port: int
    webhooks: str


@contextlib.asynccontextmanager
async def open_sandbox(
    settings: Settings,
    *,
    clock: Clock,
    new_id: Callable[[], str],
    later: CallLater | None = None,
    retries: tuple[float, ...] = RETRY_DELAYS_S,
) -> AsyncIterator[RunningSandbox]:
    """Run the sandbox until the context ends.

    ``later`` schedules events (default: the event loop), ``retries`` are the seconds between attempts to post one.
    Raises InvalidSettings for a port that is taken.
    """
    gateway = settings.sandbox_gateway.rstrip("/")
    webhooks = f"{gateway}/webhooks/{settings.sandbox_provider}"
    key = private_key(settings.data_dir)
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=30),
                connector=aiohttp.TCPConnector(limit=2 * MAX_REQUESTS_IN_FLIGHT),
            )
        )
        webhook_sender = WebhookSender(webhooks, key, session, clock, retries)
        stack.push_async_callback(cancel_tasks, [asyncio.create_task(webhook_sender.run())])
        provider = SandboxProvider(
            SandboxMailbox(settings.sandbox_keep),
            webhook_sender,
            ReaderBot(session, frozenset({origin(gateway), origin(settings.public_url)}), clock),
            clock=clock,
            new_id=new_id,
            later=later or asyncio.get_running_loop().call_later,
            pace=settings.sandbox_pace,
        )
        smtp_port = await _listen_smtp(stack, provider, settings)
        hints = InboxHints(f"{settings.sandbox_host}:{smtp_port}", gateway)
        http_port = await _listen_http(stack, provider, hints, settings)
        yield RunningSandbox(provider, smtp_port, http_port, webhooks)


async def _listen_smtp(stack: contextlib.AsyncExitStack, provider: SandboxProvider, settings: Settings) -> int:
    factory = session_factory(provider, tls_context())
    try:
        server = await asyncio.get_running_loop().create_server(
            factory, settings.sandbox_host, settings.sandbox_smtp_port
        )
    except OSError as error:
        raise InvalidSettings(f"MAILFOLD_SANDBOX_SMTP_PORT={settings.sandbox_smtp_port}: {error.strerror}") from error
    stack.callback(server.close)
    return int(server.sockets[0].getsockname()[1])


async def _listen_http(
    stack: contextlib.AsyncExitStack, provider: SandboxProvider, hints: InboxHints, settings: Settings
) -> int:
    app = application(provider, hints, loopback=_is_loopback(settings.sandbox_host))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, settings.sandbox_host, settings.sandbox_http_port)
    try:
        await site.start()
    except OSError as error:
        raise InvalidSettings(f"MAILFOLD_SANDBOX_HTTP_PORT={settings.sandbox_http_port}: {error.strerror}") from error
    return int(runner.addresses[0][1])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
