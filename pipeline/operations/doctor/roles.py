"""Ask the roles that run on this machine whether they are ready."""

from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import msgspec

from pipeline.operations.doctor.finding import DoctorFinding, ok, skip, warn
from pipeline.runtime.http_body import read_bounded
from pipeline.settings import Settings

REQUEST_TIMEOUT_S: Final = 6.0
"""Seconds for an answer: a role may take five to find out that it is not ready."""
MAX_RESPONSE_BYTES: Final = 10_000
_PORT_SETTING_PREFIX: Final = "ops_port_"
_THIS_MACHINE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what to ask where a role listens on all


async def check_roles(settings: Settings) -> AsyncIterator[DoctorFinding]:
    """Yield what each role's `/readyz` says; a role that does not answer may run on another machine."""
    if not settings.ops_host:
        yield skip("MAILFOLD_OPS_HOST is empty: roles can't be asked")
        return
    host = _THIS_MACHINE.get(settings.ops_host, settings.ops_host)
    shown = f"[{host}]" if ":" in host else host
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)) as session:
        for name in Settings.model_fields:
            if name.startswith(_PORT_SETTING_PREFIX) and (port := getattr(settings, name)):
                yield await _ask(session, name.removeprefix(_PORT_SETTING_PREFIX), f"http://{shown}:{port}/readyz")


async def _ask(session: aiohttp.ClientSession, role: str, url: str) -> DoctorFinding:
    try:
        async with session.get(url, allow_redirects=False) as response:
            body, _ = await read_bounded(response, MAX_RESPONSE_BYTES)
    except TimeoutError:
        return warn(
            f"{role} does not answer within {REQUEST_TIMEOUT_S:.0f} s at {url}", "it may be frozen: see its log"
        )
    except (aiohttp.ClientError, OSError):
        return skip(f"no {role} answers at {url}")
    if response.status == 200:
        return ok(f"{role} is ready")
    return warn(f"{role} is not ready: {_problems(body) or response.status}", "wait if it catches up; else see its log")


def _problems(body: bytes) -> str:
    try:
        answer: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        return "; ".join(f"{name}: {problem}" for name, problem in answer["problems"].items())
    except (msgspec.MsgspecError, KeyError, AttributeError):
        return ""
