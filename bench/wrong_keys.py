"""Measure how long requests with a right key take while others send 1,000 wrong keys a second.

`python -m bench.wrong_keys [--rate 1000] [--seconds 10]`. The wrong keys come from a process of their own, from sixteen
addresses of this machine, which Linux has without configuration; the right key comes from one of them.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from pydantic import SecretStr

from bench.house import QUICK, World, world
from pipeline.admin.api_keys import make_key
from pipeline.devstack.supervisor import Stack
from pipeline.settings import Settings

ADDRESSES = tuple(f"127.0.0.{number}" for number in range(2, 18))
PROBE_INTERVAL_S = 0.02
WARM_UP_S = 3.0


@dataclass(frozen=True)
class Measured:
    """Times of requests with a right key, in seconds."""

    times: list[float]

    def show(self, name: str) -> str:
        p50, p99 = statistics.median(self.times), statistics.quantiles(self.times, n=100)[98]
        return f"{name:<12} {len(self.times):>5} requests   p50 {p50 * 1000:6.2f} ms   p99 {p99 * 1000:7.2f} ms"


async def flood(url: str, rate: float) -> None:
    """Send wrong keys at a steady rate, whatever the answers, until this process is ended; print what came of them."""
    sent = answered = errors = 0
    connectors = [aiohttp.TCPConnector(local_addr=(address, 0), limit=500) for address in ADDRESSES]
    sessions = [aiohttp.ClientSession(connector=connector) for connector in connectors]
    tasks: set[asyncio.Task[None]] = set()

    async def ask(session: aiohttp.ClientSession) -> None:
        nonlocal answered, errors
        try:
            async with session.get(url, headers={"X-Api-Key": make_key()}) as response:
                answered += 1
                assert response.status in (401, 503)
        except aiohttp.ClientError:
            errors += 1

    began = shown = time.perf_counter()
    while True:
        now = time.perf_counter()
        while sent < (now - began) * rate:
            task = asyncio.create_task(ask(sessions[sent % len(sessions)]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        if now - shown >= 1:
            print(f"{sent} {answered} {errors}", flush=True)
            shown = now
        await asyncio.sleep(0.005)


async def probe(url: str, key: str, seconds: float) -> Measured:
    """Send requests with a right key, one after the other, for that many seconds."""
    times = []
    connector = aiohttp.TCPConnector(local_addr=(ADDRESSES[0], 0))
    async with aiohttp.ClientSession(connector=connector, headers={"X-Api-Key": key}) as http:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            async with http.get(url) as response:
                await response.read()
                assert response.status == 200
            times.append(time.perf_counter() - began)
            await asyncio.sleep(PROBE_INTERVAL_S)
    return Measured(times)


async def measure(place: World, rate: float, seconds: float) -> None:
    """Measure without wrong keys, with them, and without them again."""
    url = f"{place.gateway}/templates"
    async with place.roles("gateway"):
        await probe(url, place.key, WARM_UP_S)
        print((await probe(url, place.key, seconds)).show("quiet"))
        command = [sys.executable, "-m", "bench.wrong_keys", "--flood", url, "--rate", str(rate)]
        flooding = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        await asyncio.sleep(WARM_UP_S)
        print((await probe(url, place.key, seconds)).show("wrong keys"))
        flooding.terminate()
        out, _ = await flooding.communicate()
        sent, answered, errors = map(int, out.decode().splitlines()[-1].split())
        print(f"wrong keys: {sent} sent, {answered} refused so far, {errors} connections refused")
        await asyncio.sleep(WARM_UP_S)
        print((await probe(url, place.key, seconds)).show("quiet again"))


async def run(rate: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        servers = Settings(
            kafka_bootstrap="",
            database_url=SecretStr(""),
            secret=SecretStr(""),
            data_dir=Path(folder),
            topic_prefix="",
            partitions=2,
        )
        async with Stack(servers, roles=(), tell=print) as stack, world(stack.settings, "keys", QUICK) as place:
            await measure(place, rate, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--flood", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asyncio.run(flood(asked.flood, asked.rate) if asked.flood else run(asked.rate, asked.seconds))


if __name__ == "__main__":
    main()
