"""The demo: a whole stack in a folder of its own, real batches through it, and the verdict; the exit code out."""

import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import psycopg
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.devstack.demo import client, scenario, setup
from pipeline.devstack.demo.display import DemoDisplay
from pipeline.devstack.demo.order import WordOrder, read_changes, word_orders
from pipeline.devstack.demo.receiver import CONVERSION_WORDS, ConversionReceiver, serve_receiver
from pipeline.devstack.demo.verdict import DemoVerdict, is_complete, judge
from pipeline.devstack.supervisor import Stack
from pipeline.errors import MailfoldError
from pipeline.runtime.private_files import narrow_folder
from pipeline.settings import Settings, environment_of
from topics.registry import EMAIL_CHANGES

ARRIVAL_TIMEOUT_S: Final = 45.0
"""Seconds until what has not arrived is called missing."""
QUIET_PERIOD_S: Final = 1.5
"""Seconds in which nothing may come that was not owed."""
POLL_INTERVAL_S: Final = 0.5
"""Seconds between two looks at the states."""


class DemoRun:
    """One showing."""

    def __init__(self, console: Console, folder: Path, withhold: str, patience: float) -> None:
        self.console = console
        self._patience = patience
        self.screen = DemoDisplay(console)
        self.keys = {path: secrets.token_urlsafe(24) for path in scenario.BRAND_PATHS.values()}
        self.receiver = ConversionReceiver(self.keys, setup.answer_policy(withhold), self.screen.add_conversion)
        self.roles: dict[str, scenario.DemoEmail] = {}
        self.settings = setup.demo_settings(folder)
        self.api_key = ""
        self.faults: list[str] = []

    async def run(self) -> bool:
        """Show it all; whether every promise was kept."""
        async with (
            serve_receiver(self.receiver, "127.0.0.1", 0) as port,
            Stack(
                self.settings,
                tell=self.screen.print_line,
                prepare=lambda ready: self._furnish(ready, f"http://127.0.0.1:{port}"),
            ) as stack,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
        ):
            ready = stack.settings
            customer = client.DemoClient(http, f"http://{ready.host}:{ready.port}", self.api_key)
            with self.screen:
                async with _watched(ready, self.screen):
                    await self._play(customer)
            if not await customer.is_refused("mf_wrong"):
                self.faults.append("a batch under a wrong API key was not refused")
            await self._page(customer)
            await self._trace(ready)
            changes = await read_changes(ready.kafka_bootstrap, ready.topic(EMAIL_CHANGES.name))
        return self._judge(word_orders(changes))

    async def _furnish(self, ready: Settings, receiver: str) -> None:
        self.api_key = await setup.set_up_tenant(ready, receiver, self.keys)

    async def _play(self, customer: client.DemoClient) -> None:
        await self._send(customer, scenario.warm_up_emails(), "a rehearsal: one email per brand")
        if not await self._until_heard():
            raise client.UnexpectedResponse("the rehearsal's conversions did not arrive; one of the roles is not well")
        await self._send(customer, scenario.first_emails(), "the first batches")
        hard = [role for role in scenario.first_emails() if role.case.pattern == scenario.SUPPRESSED_CASE.pattern]
        await self._until_heard({email_id: role for email_id, role in self.roles.items() if role in hard})
        await self._send(customer, scenario.second_emails(), "the second batches, to addresses that bounced")
        await self._until_heard()
        await asyncio.sleep(QUIET_PERIOD_S)

    async def _send(self, customer: client.DemoClient, roles: list[scenario.DemoEmail], what: str) -> None:
        for brand, path in scenario.BRAND_PATHS.items():
            mine = [role for role in roles if role.brand == brand]
            taken = await customer.post_batch(mine)
            self.roles |= taken
            self.screen.add_emails(taken)
            self.screen.print_line(f"{what}: {path}, {len(mine)} emails taken")

    async def _until_heard(self, roles: Mapping[str, scenario.DemoEmail] | None = None) -> bool:
        """Wait for what is owed, or until patience ends; the verdict says what is missing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                while not is_complete(self.roles if roles is None else roles, self.receiver.arrivals):
                    await asyncio.sleep(0.05)
                return True
        return False

    async def _page(self, customer: client.DemoClient) -> None:
        self.console.rule("The history, page by page: GET /v1/Email/")
        listed: list[dict[str, Any]] = []
        number = 0
        async for emails, cursor in customer.history_pages():
            number, listed = number + 1, listed + emails
            states = ", ".join(sorted({email["State"] for email in emails})) or "nothing"
            onward = f"Next={cursor[:16]}…" if cursor else "the end"
            self.console.print(Text(f"page {number}: {len(emails)} emails ({states})  {onward}"))
        self.faults += client.history_faults(self.roles, listed)

    async def _trace(self, ready: Settings) -> None:
        """The three-in-the-morning question, asked with the real command."""
        role = next(role for role in self.roles.values() if role.case.pattern == "open+click")
        self.console.rule(f"mailfold trace {role.identity}")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pipeline", "trace", role.identity),
            env={
                **environment_of(ready),
                "COLUMNS": str(self.console.width),
                "PYTHONPATH": _source(),
                "PYTHONUTF8": "1",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        self.console.print(Text(output.decode("utf-8", "replace").rstrip()))
        if process.returncode:
            self.faults.append(f"mailfold trace ended with exit code {process.returncode}")

    def _judge(self, said: Mapping[str, WordOrder]) -> bool:
        verdict = judge(self.roles, self.receiver.arrivals, CONVERSION_WORDS, said)
        self.faults = [*verdict.faults, *self.faults, *(f"a request was wrong: {why}" for why in self.receiver.refused)]
        self.console.rule("The verdict")
        self.console.print(_table(verdict))
        self.console.print(
            Text(
                f"{len(self.roles)} emails; {sum(verdict.expected.values())} conversions owed, "
                f"{sum(verdict.arrived.values())} arrived, {verdict.repeats} of them more than once; "
                f"{self.receiver.postponed_count} answered 503 at first, by wish. {self.screen.elapsed_s:.0f} s."
            )
        )
        for fault in self.faults:
            self.console.print(Text(f"  ✗ {fault}", "red"))
        if not self.faults:
            self.console.print(
                Text(
                    "  ✓ every owed conversion arrived, in order per email, its activity byte for byte as sent", "green"
                )
            )
        return not self.faults


def run(console: Console, withhold: str = "", patience: float = ARRIVAL_TIMEOUT_S) -> int:
    """Show the demo; the exit code. On failure the folder stays and its place is told."""
    folder = Path(tempfile.mkdtemp(prefix="mailfold-demo-"))
    narrow_folder(folder)  # under a hostile umask it is closed to ourselves
    kept = True
    try:
        kept = not asyncio.run(_stoppable(DemoRun(console, folder, withhold, patience).run))
    except (KeyboardInterrupt, asyncio.CancelledError):
        kept = False
        console.print("stopped")
        return 130
    except MailfoldError as error:
        console.print(Text(f"the demo could not go on: {error}", "red"))
    finally:
        if kept:
            console.print(Text(f"what happened is in {folder / 'logs'}; the data lies in {folder}"))
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(kept)


@contextlib.asynccontextmanager
async def _watched(ready: Settings, screen: DemoDisplay) -> AsyncIterator[None]:
    """The screen follows the states meanwhile."""

    async def follow() -> None:
        url = ready.database_url.get_secret_value()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            while True:
                screen.update_states(await client.email_states(connection))
                await asyncio.sleep(POLL_INTERVAL_S)

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _stoppable(work: Callable[[], Any]) -> bool:
    """Ctrl-C and SIGTERM cancel once; what stops then takes seconds and must finish."""
    task = asyncio.ensure_future(work())
    asked: list[int] = []

    def ask(number: int) -> None:
        if not asked:
            asked.append(number)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ask, number)
    return bool(await task)


def _source() -> str:
    """Where our packages lie, for a child that gets a bare environment."""
    return str(Path(__file__).parents[3])


def _table(verdict: DemoVerdict) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("Word", "Owed", "Arrived", ""):
        table.add_column(column, justify="right" if column in ("Owed", "Arrived") else "left")
    for word in ("delivered", "open", "click", "spam", "bounce", "dropped", "failed"):
        owed, arrived = verdict.expected.get(word, 0), verdict.arrived.get(word, 0)
        table.add_row(word, str(owed), str(arrived), Text("✓", "green") if owed == arrived else Text("✗", "red"))
    return table
