"""Explain in sentences what an email waits for, and format times for people; `mailfold trace` and the CLI call it.

Nothing here does I/O.
"""

import datetime as dt
from typing import Any

from projections.history_queries import EmailHistory
from projections.pending_conversions import FASTTRACK_DIALECT
from topics.readings import email_status, unsettled_words
from topics.record import Millis


def pending_reasons(history: EmailHistory, now: Millis) -> list[str]:
    """Return what the email still waits for, the most urgent first; empty if it is finished."""
    reasons = [reason for job in history.jobs if (reason := _job_reason(job, now))]
    if history.state.request is None:
        return ["its send request: only events of it have been seen", *reasons]
    booked = {job["name"] for job in history.jobs if job["queue"] == "emit"}
    if not history.version:
        reasons.append("the projector, or the worker before it: it is on the log and in no table yet")
    elif history.state.request.dialect == FASTTRACK_DIALECT:
        unbooked = [word.value for word in unsettled_words(history.state) if word not in booked]
        reasons += [f"conversion {word}: owed, and in no job (`mailfold rebuild` books it)" for word in unbooked]
    return reasons or _status_reasons(history)


def _status_reasons(history: EmailHistory) -> list[str]:
    """Return what an email without open jobs waits for."""
    match email_status(history.state).value:
        case "accepted":
            return ["dispatch: it has not been handed to a provider yet"]
        case "sent" | "deferred":
            return ["its provider: handed over, nothing final heard yet"]
        case _:
            return []


def _job_reason(job: dict[str, Any], now: Millis) -> str:
    """Return what a job waits for; empty if it is done."""
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
            return f"{what}: {_pending_reason(job, now)}{error}"


def _pending_reason(job: dict[str, Any], now: Millis) -> str:
    if job["is_suspended"]:
        tenant = job["lane"].partition("/")[0]
        return f"tenant {tenant} is suspended (`mailfold tenants show`)"
    if job["paused_at"]:
        return f"lane {job['lane']} is paused since {format_datetime(job['paused_at'])}: {job['paused_reason']}"
    if job["open_until"]:
        return f"lane {job['lane']} failed too often, it is tried again at {format_datetime(job['open_until'])}"
    if job["due_at"] is None:
        return "behind an earlier one of this email"
    due_in = int(job["due_at"].timestamp() * 1000) - now
    return f"attempt {job['attempts'] + 1} due {'now' if due_in <= 0 else f'in {format_duration(due_in)}'}"


def format_time(at: Millis) -> str:
    """Return a time in UTC with milliseconds; the number itself if it is out of range."""
    try:
        moment = dt.datetime.fromtimestamp(at / 1000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return str(at)
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{at % 1000:03d}"


def format_datetime(at: Any) -> str:
    """Return a timestamp of the database in the same format; empty for None."""
    return "" if at is None else format_time(int(at.timestamp() * 1000))


def format_duration(milliseconds: int) -> str:
    """Return a duration in its two largest units."""
    seconds, remainder_ms = divmod(milliseconds, 1000)
    for unit, size, below, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // smaller} {below}"
    return f"{seconds}.{remainder_ms // 100} s"
