"""`python -m bench.profile_role ROLE`: record a flame graph of one role while the whole stack is busy.

py-spy samples the running process. Where the kernel lets only root do that, run it as root.
"""

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import aiohttp
from rich.console import Console

from bench.costs import OUR_ROLES
from bench.house import Size, server_settings, sink, world
from bench.whole import ROLES, Arrivals, Whole
from pipeline.devstack.supervisor import Stack

SAMPLES_PER_S = 250
FIRST_NUMBER = 5 * 10**8
EMAILS_PER_ROUND = 1_000


async def record(role: str, output: Path, seconds: int, folder: Path, console: Console) -> int:
    """Run the stack, keep it busy while py-spy records ``role``, and return py-spy's exit code."""
    arrivals = Arrivals()
    async with (
        Stack(server_settings(folder), roles=(), tell=lambda line: console.print(f"[dim]{line}[/]")) as stack,
        sink(arrivals) as origin,
        world(stack.settings, "profile", Size(), origin) as stage_world,
        stage_world.roles(*ROLES) as children,
        aiohttp.ClientSession() as http,
    ):
        whole = Whole(stage_world, arrivals, http)
        console.print("[dim]warming up[/]")
        await whole.warm_up()
        options = ("--rate", str(SAMPLES_PER_S), "--duration", str(seconds), "--output", str(output))
        program = str(Path(sys.executable).with_name("py-spy"))
        recorder = await asyncio.create_subprocess_exec(program, "record", "--pid", str(children[role].pid), *options)
        number = FIRST_NUMBER
        while recorder.returncode is None:
            await whole.send(range(number, number + EMAILS_PER_ROUND))
            number += EMAILS_PER_ROUND
        return recorder.returncode


def main() -> int:
    """Record the role of the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile_role", description=__doc__)
    parser.add_argument("role", choices=OUR_ROLES)
    parser.add_argument("--seconds", type=int, default=20, help="how long to record (default: 20)")
    parser.add_argument("--output", type=Path, help="the SVG to write (default: profile-ROLE.svg)")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    console = Console(highlight=False)
    output = (options.output or Path(f"profile-{options.role}.svg")).absolute()
    folder = Path(tempfile.mkdtemp(prefix="mailfold-profile-"))
    try:
        code = asyncio.run(record(options.role, output, options.seconds, folder, console))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if code == 0:
        console.print(f"written: {output}")
    return code


if __name__ == "__main__":
    sys.exit(main())
