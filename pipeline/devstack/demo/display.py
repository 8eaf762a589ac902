"""What the watcher sees: states and arrivals in; a live table in a terminal, progressive lines elsewhere."""

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
    """The stage as it is now. Entered, it shows itself: live where somebody watches, as lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()
        self._roles: dict[str, DemoEmail] = {}
        self._states: dict[str, str] = {}
        self._words: dict[str, list[str]] = {}
        self._told: dict[DemoCase, str] = {}
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
            self._live.stop()

    @property
    def elapsed_s(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self._began

    def print_line(self, line: str) -> None:
        """A line that stays."""
        self.console.print(Text.assemble((f"{self.elapsed_s:5.1f}s  ", "dim"), line))

    def add_emails(self, roles: Mapping[str, DemoEmail]) -> None:
        """Emails come on stage: by email_id."""
        self._roles.update(roles)

    def update_states(self, states: Mapping[str, str]) -> None:
        """The present status of each email."""
        self._states.update(states)
        if self._live is None:
            self._tell_changed()

    def add_conversion(self, arrival: ReceivedConversion) -> None:
        """Fast Track took a conversion."""
        self._words.setdefault(arrival.email_id, []).append(arrival.word)

    def _tell_changed(self) -> None:
        """Where no table can be drawn: each row that changed, as a line."""
        for scene, ids in self._scenes().items():
            line = Text.assemble(
                *(f"{scene.title}, {len(ids)}×: ", self._states_of(ids), "; Fast Track heard "),
                self._words_of(scene, ids),
            )
            if self._told.get(scene) != line.plain:
                self._told[scene] = line.plain
                self.console.print(Text.assemble((f"{self.elapsed_s:5.1f}s  ", "dim"), line), soft_wrap=True)

    def _render(self) -> RenderableType:
        narrow = self.console.width < _NARROW_WIDTH_COLUMNS
        table = Table(box=None, pad_edge=False, header_style="bold", expand=not narrow)
        table.add_column(
            "What happens",
            overflow="ellipsis",
            no_wrap=True,
            ratio=None if narrow else 3,
            max_width=24 if narrow else None,
        )
        if not narrow:
            table.add_column("", justify="right", no_wrap=True)
        table.add_column("State", overflow="fold", ratio=None if narrow else 2)
        table.add_column("Fast Track heard", overflow="fold", ratio=None if narrow else 3)
        for scene, ids in self._scenes().items():
            cells = [Text(scene.title), self._states_of(ids), self._words_of(scene, ids)]
            table.add_row(*cells if narrow else (cells[0], Text(f"{len(ids)}×", "dim"), *cells[1:]))
        heard = sum(len(words) for words in self._words.values())
        return Group(table, Text(f"{self.elapsed_s:5.1f}s  {len(self._roles)} emails, {heard} conversions", "dim"))

    def _scenes(self) -> dict[DemoCase, list[str]]:
        scenes: dict[DemoCase, list[str]] = {}
        for email_id, role in self._roles.items():
            scenes.setdefault(role.case, []).append(email_id)
        return scenes

    def _states_of(self, ids: Iterable[str]) -> Text:
        counted = Counter(self._states.get(email_id, "–") for email_id in ids)
        return _counts((status, str(number)) for status, number in counted.items())

    def _words_of(self, scene: DemoCase, ids: list[str]) -> Text:
        counted = Counter(word for email_id in ids for word in set(self._words.get(email_id, ())))
        shown = dict.fromkeys((*scene.expected_words, *counted))
        return _counts((word, f"{counted[word]}/{len(ids) if word in scene.expected_words else 0}") for word in shown)


def _counts(pairs: Iterable[tuple[str, str]]) -> Text:
    parts = [Text.assemble((word, _STYLES.get(word, "")), " ", (number, "dim")) for word, number in pairs]
    return Text(" · ").join(parts)
