"""Measure the memory of an idle `mailfold up` and its children, in a folder of its own. Run by `python -m bench`."""

import asyncio
import contextlib
import sys
from pathlib import Path

import psutil

from bench.figures import Memory
from bench.house import answers
from pipeline.devstack.servers.data_dir import find_free_port
from pipeline.devstack.servers.process import Program, spawn

SETTLE = 10.0
"""Seconds to wait after all roles answer, so that imports are done and pools are open."""


async def run(folder: Path) -> Memory:
    """Start `mailfold up`, wait until it is idle, measure its memory and stop it."""
    port, http = find_free_port(), find_free_port()
    env = {
        "KAFKA_BOOTSTRAP": "",
        "DATABASE_URL": "",
        "MAILFOLD_DATA_DIR": str(folder),
        "MAILFOLD_PORT": str(port),
        "MAILFOLD_INBOUND_PORT": str(find_free_port()),
        "MAILFOLD_SANDBOX_SMTP_PORT": str(find_free_port()),
        "MAILFOLD_SANDBOX_HTTP_PORT": str(http),
    }
    up = spawn(Program("up", (sys.executable, "-m", "pipeline", "up"), folder / "up.log", env))
    try:
        await answers(f"http://127.0.0.1:{port}/healthz", up)
        await answers(f"http://127.0.0.1:{http}/healthz", up)
        await asyncio.sleep(SETTLE)
        return weigh(up.pid)
    finally:
        await up.stop_async(12.0)


def weigh(pid: int) -> Memory:
    """Return the memory of a process and its children.

    RSS counts a page that processes share (as Postgres' buffers) once for each of them; PSS divides it among them.
    """
    rss: dict[str, float] = {}
    pss: dict[str, float] = {}
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            name, found = program_name(process), process.memory_full_info()
            rss[name] = rss.get(name, 0.0) + found.rss / 1e6
            pss[name] = pss.get(name, 0.0) + getattr(found, "pss", 0) / 1e6
    return Memory(rss, pss)


def program_name(process: psutil.Process) -> str:
    """Return the last argument of a Python process, which is its role, or else the name of the program."""
    program, arguments = process.name(), process.cmdline()
    return arguments[-1] if program.startswith("python") and arguments else {"java": "kafka"}.get(program, program)
