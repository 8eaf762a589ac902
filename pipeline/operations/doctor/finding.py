"""What a check of `mailfold doctor` finds, and how a check is run: bounded in time, whatever becomes of the others."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Final, Literal

import msgspec

from pipeline.errors import MailfoldError
from pipeline.settings import Settings

CHECK_TIMEOUT_S: Final = 15.0

DoctorVerdict = Literal["ok", "warn", "fail", "skip"]
"""``warn``: it works, and may not for long. ``fail``: something does not work. ``skip``: it can't be checked here."""


class DoctorFinding(msgspec.Struct, frozen=True):
    """One line of the report."""

    verdict: DoctorVerdict
    text: str
    todo: str = ""
    area: str = ""


class DoctorReport(msgspec.Struct, frozen=True):
    """All findings, in the order of the areas."""

    findings: tuple[DoctorFinding, ...]
    seconds: float

    def has(self, verdict: DoctorVerdict) -> bool:
        """Return whether any finding has this verdict."""
        return any(finding.verdict == verdict for finding in self.findings)


DoctorCheck = Callable[[Settings], AsyncIterator[DoctorFinding]]


def ok(text: str) -> DoctorFinding:
    """Return a finding that something is as it should be."""
    return DoctorFinding("ok", text)


def warn(text: str, todo: str) -> DoctorFinding:
    """Return a finding that something works, and what to do so that it stays so."""
    return DoctorFinding("warn", text, todo)


def fail(text: str, todo: str = "") -> DoctorFinding:
    """Return a finding that something does not work, and what to do about it."""
    return DoctorFinding("fail", text, todo)


def skip(text: str, todo: str = "") -> DoctorFinding:
    """Return a finding that something can't be checked from here, and how else it can be."""
    return DoctorFinding("skip", text, todo)


async def examine(settings: Settings, checks: dict[str, DoctorCheck]) -> DoctorReport:
    """Run all checks at the same time; return what each found, by area."""
    started_at = time.monotonic()
    findings = await asyncio.gather(*(_run_check(area, check, settings) for area, check in checks.items()))
    return DoctorReport(tuple(each for some in findings for each in some), round(time.monotonic() - started_at, 3))


async def _run_check(area: str, check: DoctorCheck, settings: Settings) -> list[DoctorFinding]:
    """Return what a check found until it ended, failed or ran out of time."""
    findings: list[DoctorFinding] = []
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            async for finding in check(settings):
                findings.append(finding)  # noqa: PERF401 - what was found before a time-out counts
    except TimeoutError:
        findings.append(fail(f"no answer within {CHECK_TIMEOUT_S:.0f} s", "is it overloaded, or a firewall between?"))
    except MailfoldError as error:
        findings.append(fail(str(error)))
    except Exception as error:
        findings.append(fail(f"the check itself failed: {type(error).__name__}: {error}"))
    return [msgspec.structs.replace(finding, area=area) for finding in findings]
