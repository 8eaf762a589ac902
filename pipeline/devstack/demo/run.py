"""The demo's run, from starting a stack to the verdict; called by `mailfold demo`."""

import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
import tempfile
from collections import Counter
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
from pipeline.runtime.environment import environment_of
from pipeline.runtime.private_files import narrow_folder
from pipeline.runtime.tasks import cancel_tasks
from pipeline.settings import Settings

ARRIVAL_TIMEOUT_S: Final = 45.0
"""Seconds until a conversion that has not arrived is called missing."""
QUIET_PERIOD_S: Final = 1.5
"""Seconds at the end in which no conversion may arrive that was not expected."""
POLL_INTERVAL_S: Final = 0.5
"""Seconds between reads of the emails' states."""

STEPS: Final = (
    (
        "start Mailfold",
        "A real Kafka and Postgres, every role of Mailfold, a sandbox that stands for the email provider, and a "
        "receiver that stands for Fast Track. All of it runs on this machine, with its data in a temporary folder.",
    ),
    (
        "send emails and receive conversions",
        "Two brands post batches as Fast Track does. Each recipient's address says what the sandbox does with the "
        "email: deliver it, bounce it, open it, click in it. Mailfold folds what it learns into one state per email "
        "and posts a conversion to Fast Track for each change that Fast Track wants to know.",
    ),
    (
        "read the history",
        "GET /v1/Email/ lists every email with its state, 100 a page. Each email must be listed once, with the state "
        "that its conversions say.",
    ),
    (
        "follow one email",
        "The command `mailfold trace` shows an operator all that happened to one email, and where it is on the log.",
    ),
    (
        "check the result",
        "The conversions that each email must have were written down by hand. They are compared with what arrived.",
    ),
)
PROOFS: Final = (
    "every expected conversion arrived, and no other",
    "in order for each email, at the right brand, each with its Idempotency-Key",
    "each with its activity byte for byte as sent",
    "emails to addresses that had bounced were dropped instead of sent",
    "a conversion answered 503 was sent again",
    "a lost connection and repeated webhooks made no difference",
    "a forged webhook and a wrong API key were refused",
    "the history lists every email once, with the right state",
)


LOOK_HINT: Final = (
    "\nTo look at these emails in a browser: `mailfold demo --stay`. To send your own: `make up`, then open the "
    "console at http://127.0.0.1:8025/console."
)


class DemoRun:
    """One run of the demo in ``folder``."""

    def __init__(
        self, console: Console, folder: Path, withhold: str, arrival_timeout_s: float, *, stays: bool = False
    ) -> None:
        self.console = console
        self._stays = stays
        self._arrival_timeout_s = arrival_timeout_s
        self.display = DemoDisplay(console)
        self.keys = {path: secrets.token_urlsafe(24) for path in scenario.BRAND_PATHS.values()}
        self.receiver = ConversionReceiver(self.keys, setup.answer_policy(withhold), self.display.add_conversion)
        self.emails: dict[str, scenario.DemoEmail] = {}
        self.settings = setup.demo_settings(folder)
        self.api_key = ""
        self.faults: list[str] = []

    async def run(self) -> bool:
        """Run all steps and return whether everything was right."""
        self._print_step(1)
        async with (
            serve_receiver(self.receiver, "127.0.0.1", 0) as port,
            Stack(
                self.settings,
                tell=self.display.print_line,
                prepare=lambda ready: self._set_up_tenant(ready, f"http://127.0.0.1:{port}"),
            ) as stack,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http,
        ):
            ready = stack.settings
            customer = client.DemoClient(http, f"http://{ready.host}:{ready.port}", self.api_key)
            self._print_step(2)
            with self.display:
                async with _followed_states(ready, self.display):
                    await self._send_all(customer)
            if not await customer.is_refused("mf_wrong"):
                self.faults.append("a batch under a wrong API key was not refused")
            self._print_step(3)
            await self._read_history(customer)
            self._print_step(4)
            await self._trace(ready)
            changes = await read_changes(ready)
            self._print_step(5)
            is_right = self._judge(word_orders(changes))
            if self._stays:
                await self._stay(ready)
        if not self._stays:
            self.console.print(Text(LOOK_HINT, "dim"), soft_wrap=True)
        return is_right

    async def _stay(self, ready: Settings) -> None:
        """Say where the console is, and wait until Ctrl-C."""
        self.console.print(f"\nConsole  [bold]http://{ready.host}:{ready.port}/console[/]", soft_wrap=True)
        self.console.print(f"API key  [bold green]{self.api_key}[/]   sign in with it", soft_wrap=True)
        self.console.print("\nCtrl-C stops everything and removes the data.")
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    def _print_step(self, number: int) -> None:
        self.display.print_step(number, len(STEPS), *STEPS[number - 1])

    async def _set_up_tenant(self, ready: Settings, receiver: str) -> None:
        self.api_key = await setup.set_up_tenant(ready, receiver, self.keys)

    async def _send_all(self, customer: client.DemoClient) -> None:
        await self._send(customer, scenario.warm_up_emails(), "trial, to see that every role works")
        if not await self._all_arrived(self.emails):
            raise client.UnexpectedResponse("the conversions of the trial did not arrive; a role is not working")
        await self._send(customer, scenario.first_emails(), "first batch")
        hard_bounces = {
            email_id: email
            for email_id, email in self.emails.items()
            if email.case.pattern == scenario.SUPPRESSED_CASE.pattern
        }
        await self._all_arrived(hard_bounces)
        await self._send(customer, scenario.second_emails(), "second batch, to bounced addresses")
        await self._all_arrived(self.emails)
        await asyncio.sleep(QUIET_PERIOD_S)

    async def _send(self, customer: client.DemoClient, emails: list[scenario.DemoEmail], title: str) -> None:
        for brand, path in scenario.BRAND_PATHS.items():
            batch = [email for email in emails if email.brand == brand]
            accepted = await customer.post_batch(batch)
            self.emails |= accepted
            self.display.add_emails(accepted)
            count = f"{len(batch)} email{'' if len(batch) == 1 else 's'}"
            self.display.print_line(f"{title}: brand {path}, {count} accepted")

    async def _all_arrived(self, emails: Mapping[str, scenario.DemoEmail]) -> bool:
        """Wait until all conversions of these emails arrived and return True; False after the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._arrival_timeout_s):
                while not is_complete(emails, self.receiver.arrivals):
                    await asyncio.sleep(0.05)
                return True
        return False

    async def _read_history(self, customer: client.DemoClient) -> None:
        listed: list[dict[str, Any]] = []
        number = 0
        async for entries, cursor in customer.history_pages():
            number, listed = number + 1, listed + entries
            counts = Counter(entry["State"] for entry in entries)
            states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"
            following = f"Next={cursor[:8]}…" if cursor else "last page"
            self.console.print(Text(f"page {number}: {len(entries)} emails ({states}); {following}"))
        self.faults += client.history_faults(self.emails, listed)

    async def _trace(self, ready: Settings) -> None:
        email = next(email for email in self.emails.values() if email.case.pattern == "open+click")
        self.console.print(Text(f"$ mailfold trace {email.identity}", "bold"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pipeline", "trace", email.identity),
            env={**environment_of(ready), "PYTHONPATH": _source_folder(), "PYTHONUTF8": "1"},
            # In a terminal the command draws its table to the terminal's width; lines of a pipe must not be wrapped.
            stdout=None if self.console.is_terminal else asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if output:
            self.console.print(Text(output.decode("utf-8", "replace").rstrip()), soft_wrap=True)
        if process.returncode:
            self.faults.append(f"mailfold trace ended with exit code {process.returncode}")

    def _judge(self, log_orders: Mapping[str, WordOrder]) -> bool:
        verdict = judge(self.emails, self.receiver.arrivals, CONVERSION_WORDS, log_orders)
        refused = (f"the receiver refused a request: {reason}" for reason in self.receiver.refused)
        self.faults = [*verdict.faults, *self.faults, *refused]
        self.console.print(_table(verdict))
        self.console.print()
        self.console.print(
            Text(
                f"{len(self.emails)} emails in {self.display.elapsed_s:.0f} seconds. "
                f"{sum(verdict.expected.values())} conversions expected, {sum(verdict.arrived.values())} received, "
                f"{verdict.repeats} of them more than once; {self.receiver.postponed_count} answered 503 on purpose."
            )
        )
        mark, style, lines = ("✗", "red", self.faults) if self.faults else ("✓", "green", PROOFS)
        self.console.print(Text("Not everything was right:" if self.faults else "This run has shown:", "bold"))
        for line in lines:
            self.console.print(Text(f"  {mark} {line}", style))
        return not self.faults


def run(
    console: Console, withhold: str = "", arrival_timeout_s: float = ARRIVAL_TIMEOUT_S, *, stays: bool = False
) -> int:
    """Run the demo and return the exit code; after a failure its folder is kept and named."""
    folder = Path(tempfile.mkdtemp(prefix="mailfold-demo-"))
    narrow_folder(folder)  # a umask that takes the owner's rights away would close it to the demo, too
    keep_folder = True
    try:
        keep_folder = not asyncio.run(
            _until_signal(DemoRun(console, folder, withhold, arrival_timeout_s, stays=stays).run)
        )
    except (KeyboardInterrupt, asyncio.CancelledError):
        keep_folder = False
        console.print("stopped")
        return 130
    except MailfoldError as error:
        console.print(Text(f"the demo could not continue: {error}", "red"))
    finally:
        if keep_folder:
            console.print(Text(f"logs are kept in {folder / 'logs'}, data in {folder}"), soft_wrap=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(keep_folder)


@contextlib.asynccontextmanager
async def _followed_states(ready: Settings, display: DemoDisplay) -> AsyncIterator[None]:
    """Read the emails' states repeatedly into the display until the context ends."""

    async def follow() -> None:
        url = ready.database_url.get_secret_value()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            while True:
                display.update_states(await client.email_states(connection))
                await asyncio.sleep(POLL_INTERVAL_S)

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        await cancel_tasks([task])


async def _until_signal(work: Callable[[], Any]) -> bool:
    """Run the work; cancel it at the first signal only, because stopping takes seconds and must not be cut off."""
    task = asyncio.ensure_future(work())
    received: list[int] = []

    def cancel_once(number: int) -> None:
        if not received:
            received.append(number)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, cancel_once, number)
    return bool(await task)


def _source_folder() -> str:
    """Return the folder that holds our packages, for a child process with an environment of its own."""
    return str(Path(__file__).parents[3])


def _table(verdict: DemoVerdict) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("Conversion", "Expected", "Received", ""):
        table.add_column(column, justify="right" if column in ("Expected", "Received") else "left")
    for word in ("delivered", "open", "click", "spam", "bounce", "dropped", "failed"):
        expected, arrived = verdict.expected.get(word, 0), verdict.arrived.get(word, 0)
        mark = Text("✓", "green") if expected == arrived else Text("✗", "red")
        table.add_row(word, str(expected), str(arrived), mark)
    return table
