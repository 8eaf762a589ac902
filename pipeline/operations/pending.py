"""One email's story in, what keeps it from being finished out, in sentences; times as people read them. Pure."""

import datetime as dt
from typing import Any

from projections.debts import FASTTRACK_DIALECT
from projections.postgres import EmailHistory
from topics.readings import email_status, unsettled_words
from topics.record import Millis


def pending_reasons(story: EmailHistory, now: Millis) -> list[str]:
    """What keeps this email from being finished, most urgent first; empty if nothing does."""
    waits = [line for job in story.jobs if (line := _waits(job, now))]
    if story.state.request is None:
        return ["its send request: only events of it have been seen", *waits]
    words = {job["name"] for job in story.jobs if job["queue"] == "emit"}
    if not story.version:
        waits.append("the projector, or the worker before it: it is on the log and in no table yet")
    elif story.state.request.dialect == FASTTRACK_DIALECT:
        unbooked = [word.value for word in unsettled_words(story.state) if word not in words]
        waits += [f"conversion {word}: owed, and in no job (`mailfold rebuild` books it)" for word in unbooked]
    return waits or _waits_for_news(story)


def _waits_for_news(story: EmailHistory) -> list[str]:
    match email_status(story.state).value:
        case "accepted":
            return ["dispatch: it has not been handed to a provider yet"]
        case "sent" | "deferred":
            return ["its provider: handed over, nothing final heard yet"]
        case _:
            return []


def _waits(job: dict[str, Any], now: Millis) -> str:
    """One open job in a sentence."""
    what = f"conversion {job['name']}" if job["queue"] == "emit" else "dispatch"
    error = f"; last: {job['last_error']}" if job["last_error"] else ""
    match job["state"]:
        case "done":
            return ""
        case "dead":
            return f"{what}: dead after {job['attempts']} attempts (`mailfold dead replay`){error}"
        case "unknown":
            return f"{what}: was in hand when a process died; you decide (`mailfold dead replay`){error}"
        case "held":
            return f"{what}: held until the log has been read to its end"
        case "attempting":
            until = format_datetime(job["due_at"])
            return f"{what}: attempt {job['attempts']} is under way, its lease holds until {until}"
        case _:
            return f"{what}: {_pending(job, now)}{error}"


def _pending(job: dict[str, Any], now: Millis) -> str:
    if job["paused_at"]:
        return f"lane {job['lane']} is paused since {format_datetime(job['paused_at'])}: {job['paused_reason']}"
    if job["open_until"]:
        return f"lane {job['lane']} failed too often, it is tried again at {format_datetime(job['open_until'])}"
    if job["due_at"] is None:
        return "behind an earlier one of this email"
    due = int(job["due_at"].timestamp() * 1000) - now
    return f"attempt {job['attempts'] + 1} due {'now' if due <= 0 else f'in {format_duration(due)}'}"


def format_time(at: Millis) -> str:
    """A time as people read it, UTC, to the ms; verbatim where it is no time at all."""
    try:
        moment_ = dt.datetime.fromtimestamp(at / 1000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return str(at)
    return moment_.strftime("%Y-%m-%d %H:%M:%S.") + f"{at % 1000:03d}"


def format_datetime(at: Any) -> str:
    """A database's time."""
    return "" if at is None else format_time(int(at.timestamp() * 1000))


def format_duration(milliseconds: int) -> str:
    """A length of time in its two largest units."""
    seconds, rest = divmod(milliseconds, 1000)
    for unit, size, below, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // smaller} {below}"
    return f"{seconds}.{rest // 100} s"
