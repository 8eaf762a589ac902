"""Render the console's pages, and the headers that go with each; all its routes call it.

Templates escape every value, also those that strangers wrote: subjects, servers' replies, links. No page has a script.
"""

import datetime as dt
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jinja2
from fastapi import Response

from pipeline.gateway.console.sessions import Viewer
from pipeline.operations.pending import format_duration
from pipeline.runtime.web.markup import printable
from pipeline.runtime.web.style import STYLE

_FOLDER: Final = Path(__file__).parent
PAGE_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STYLESHEET: Final = (STYLE + (_FOLDER / "console.css").read_text(encoding="utf-8")).encode()
STYLESHEET_NAME: Final = f"console-{hashlib.sha256(STYLESHEET).hexdigest()[:16]}.css"
"""Changes with the content, so that browsers may keep the file for ever."""

SECTIONS: Final = (
    ("/console", "Overview", ()),
    ("/console/emails", "Emails", ("history:read",)),
    ("/console/dead-letters", "Dead letters", ("operate",)),
    ("/console/lanes", "Lanes", ("operate",)),
    ("/console/suppressions", "Suppressions", ("suppressions:read",)),
)
"""The pages of the navigation: path, title, and the scopes without which they are not offered."""

COLOUR_BY_STATUS: Final = {
    **dict.fromkeys(("delivered", "opened", "clicked", "done", "told", "running"), "good"),
    **dict.fromkeys(("bounced", "complained", "failed", "dropped", "dead", "refused", "given up"), "bad"),
    **dict.fromkeys(("deferred", "paused", "unknown", "breaker open", "held", "halted", "behind"), "warn"),
}
"""Colours of states; each is shown as a word, which the colour only repeats."""


def format_moment(at: Any) -> str:
    """Return a time (milliseconds since 1970, or a datetime) in UTC with seconds; empty for None."""
    moment = to_datetime(at)
    return "" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def iso_moment(at: Any) -> str:
    """Return a time for the `datetime` attribute of HTML's `time`; empty for None."""
    moment = to_datetime(at)
    return "" if moment is None else moment.isoformat(timespec="milliseconds")


def to_datetime(at: Any) -> dt.datetime | None:
    """Return a time as a datetime in UTC; None for None and for times beyond the calendar."""
    if at is None or isinstance(at, dt.datetime):
        return None if at is None else at.astimezone(dt.UTC)
    try:
        return dt.datetime.fromtimestamp(at / 1000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return None


def format_count(number: int) -> str:
    """Return a number with its thousands apart."""
    return f"{number:,}".replace(",", "\u202f")


def _escaped_input(value: Any) -> Any:
    """Return a value for a template: texts without what browsers can't show. Escaping follows."""
    return printable(value) if type(value) is str else value


class ConsolePages:
    """Renders pages from the folder `templates`."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=_escaped_input,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "moment": format_moment,
            "iso": iso_moment,
            "count": format_count,
            "age": self._age,
            "colour": lambda status: COLOUR_BY_STATUS.get(str(status), ""),
        }
        self._templates.globals["stylesheet"] = f"/console/assets/{STYLESHEET_NAME}"

    def page(
        self, name: str, viewer: Viewer | None = None, *, path: str = "", status: int = 200, **values: Any
    ) -> Response:
        """Return the page of a template; ``path`` is that of its section in the navigation."""
        sections = [] if viewer is None else [each for each in SECTIONS if viewer.can(*each[2])]
        html = self._templates.get_template(name).render(
            viewer=viewer, sections=sections, here=path, now=self._clock(), **values
        )
        return html_response(html, status)

    def _age(self, at: Any) -> str:
        """Return how long ago a time was, in its two largest units."""
        moment = to_datetime(at)
        if moment is None:
            return ""
        return format_duration(max(0, self._clock() - int(moment.timestamp() * 1000)))


def html_response(html: str, status: int = 200, csp: str = PAGE_CSP, **headers: str) -> Response:
    """Return a page that no cache may keep; the application adds the other security headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = html.encode("utf-8", "replace")
    return Response(
        body,
        status,
        headers={"Content-Security-Policy": csp, "Cache-Control": "no-store", **named},
        media_type="text/html; charset=utf-8",
    )


def see_other(path: str) -> Response:
    """Return the answer that leads the browser to another page of the console."""
    return Response(status_code=303, headers={"Location": path, "Cache-Control": "no-store"})
