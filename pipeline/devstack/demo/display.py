"""What the demo shows: steps, and the emails' states and conversions; a live table in a terminal, lines elsewhere."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.devstack.demo.receiver import ReceivedConversion
from pipeline.devstack.demo.scenario import DemoCase, DemoEmail

LINES_INTERVAL_S: Final = 2.0
"""Seconds between reports of what changed where no table can be drawn."""
NOT_LISTED: Final = "posted"
"""Shown as the state of an email that is not in the history yet."""

_STYLES: Final = {
    "delivered": "green",
    "opened": "green",
    "open": "green",
    "clicked": "green",
    "click": "green",
    "bounced": "red",
    "bounce": "red",
    "failed": "red",
    "dropped": "red",
    "complained": "magenta",
    "spam": "magenta",
    "deferred": "yellow",
}
_NARROW_WIDTH_COLUMNS: Final = 76


class DemoDisplay:
    """The demo's output; as a context it shows the emails, live in a terminal, as lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()
        self._emails: dict[str, DemoEmail] = {}
        self._states: dict[str, str] = {}
        self._words: dict[str, list[str]] = {}
        self._printed: dict[DemoCase, str] = {}
        self._printed_at = 0.0
        self._live = (
            Live(console=console, refresh_per_second=8, get_renderable=self._render, vertical_overflow="ellipsis")
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "DemoDisplay":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._live is not None:
            # The last picture stays on the screen; it must not be cut at the window's height.
            self._live.vertical_overflow = "visible"
            self._live.stop()
        else:
            self._print_changed_cases()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    def print_step(self, number: int, count: int, title: str, explanation: str) -> None:
        """Print the heading of a step, and in a sentence or two what happens and why."""
        self.console.print()
        self.console.print(Text(f"Step {number} of {count}: {title}", "bold"))
        self.console.print(Text(explanation, "dim"))

    def print_line(self, line: str) -> None:
        """Print a line with the time."""
        self.console.print(self._timed(line))

    def add_emails(self, emails: Mapping[str, DemoEmail]) -> None:
        """Show these emails, by email_id, from now on."""
        self._emails.update(emails)

    def update_states(self, states: Mapping[str, str]) -> None:
        """Show these states, by email_id."""
        self._states.update(states)
        if self._live is None and time.monotonic() >= self._printed_at + LINES_INTERVAL_S:
            self._print_changed_cases()

    def add_conversion(self, conversion: ReceivedConversion) -> None:
        """Show that Fast Track's receiver accepted a conversion."""
        self._words.setdefault(conversion.email_id, []).append(conversion.word)

    def _timed(self, *parts: str | Text) -> Text:
        return Text.assemble((f"{self.elapsed_s:5.1f}s  ", "dim"), *parts)

    def _print_changed_cases(self) -> None:
        self._printed_at = time.monotonic()
        for case, ids in self._ids_by_case().items():
            state, words = self._states_of(ids), self._words_of(case, ids)
            line = Text.assemble(f"{case.title} ({len(ids)} emails): ", state, "; conversions received: ", words)
            if self._printed.get(case) != line.plain:
                self._printed[case] = line.plain
                self.console.print(self._timed(line), soft_wrap=True)

    def _render(self) -> RenderableType:
        is_narrow = self.console.width < _NARROW_WIDTH_COLUMNS
        table = Table(box=None, pad_edge=False, header_style="bold", expand=not is_narrow)
        table.add_column("Emails", overflow="ellipsis", no_wrap=True, max_width=24 if is_narrow else None)
        if not is_narrow:
            table.add_column("", justify="right", no_wrap=True)
        table.add_column("State", overflow="fold", ratio=None if is_narrow else 2)
        table.add_column("Conversions received", overflow="fold", ratio=None if is_narrow else 3)
        for case, ids in self._ids_by_case().items():
            cells = [Text(case.title), self._states_of(ids), self._words_of(case, ids)]
            table.add_row(*cells if is_narrow else (cells[0], Text(f"{len(ids)}×", "dim"), *cells[1:]))
        received = sum(len(words) for words in self._words.values())
        return Group(table, self._timed(f"{len(self._emails)} emails, {received} conversions received"))

    def _ids_by_case(self) -> dict[DemoCase, list[str]]:
        ids_by_case: dict[DemoCase, list[str]] = {}
        for email_id, email in self._emails.items():
            ids_by_case.setdefault(email.case, []).append(email_id)
        return ids_by_case

    def _states_of(self, ids: Iterable[str]) -> Text:
        counts = Counter(self._states.get(email_id, NOT_LISTED) for email_id in ids)
        return _joined((state, str(count)) for state, count in counts.items())

    def _words_of(self, case: DemoCase, ids: list[str]) -> Text:
        counts = Counter(word for email_id in ids for word in set(self._words.get(email_id, ())))
        words = dict.fromkeys((*case.expected_words, *counts))
        return _joined((word, f"{counts[word]}/{len(ids) if word in case.expected_words else 0}") for word in words)


def _joined(pairs: Iterable[tuple[str, str]]) -> Text:
    parts = [Text.assemble((word, _STYLES.get(word, "")), " ", (count, "dim")) for word, count in pairs]
    return Text(" · ").join(parts)
