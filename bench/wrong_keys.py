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
from pathlib import Path

import aiohttp
import psutil
from pydantic import SecretStr

from bench.house import QUICK, World, world
from pipeline.admin.api_keys import make_key
from pipeline.devstack.supervisor import Stack
from pipeline.settings import Settings

ADDRESSES = tuple(f"127.0.0.{number}" for number in range(2, 18))
PROBE_INTERVAL_S = 0.02
WARM_UP_S = 3.0
ROUNDS = 3


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

    print("0 0 0", flush=True)
    began = reported_at = time.perf_counter()
    while True:
        now = time.perf_counter()
        while sent < (now - began) * rate:
            task = asyncio.create_task(ask(sessions[sent % len(sessions)]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        if now - reported_at >= 1:
            print(f"{sent} {answered} {errors}", flush=True)
            reported_at = now
        await asyncio.sleep(0.005)


async def probe(url: str, key: str, seconds: float) -> list[float]:
    """Send requests with a right key, one after the other, for that many seconds; return their times."""
    times: list[float] = []
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
    return times


async def measure(place: World, rate: float, seconds: float) -> None:
    """Measure without wrong keys and with them, by turns, because other programs may use the machine, too."""
    url = f"{place.gateway}/templates"
    quiet: list[float] = []
    beside: list[float] = []
    async with place.roles("gateway") as children:
        gateway = psutil.Process(children["gateway"].pid)
        await probe(url, place.key, WARM_UP_S)
        for _ in range(ROUNDS):
            quiet += await probe(url, place.key, seconds)
            beside += await beside_flood(place, gateway, url, rate, seconds)
            await asyncio.sleep(WARM_UP_S)
    print(shown("quiet", quiet))
    print(shown("wrong keys", beside))
    print(f"p50 beside wrong keys: {statistics.median(beside) / statistics.median(quiet):.2f} times the quiet one")


async def beside_flood(place: World, gateway: psutil.Process, url: str, rate: float, seconds: float) -> list[float]:
    """Send wrong keys for that many seconds, and return the times of requests with the right one meanwhile."""
    command = [sys.executable, "-m", "bench.wrong_keys", "--flood", url, "--rate", str(rate)]
    flooding = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    await asyncio.sleep(WARM_UP_S)
    spent_s, refused = cpu_s(gateway), await refused_keys(place)
    times = await probe(url, place.key, seconds)
    spent_s, refused = cpu_s(gateway) - spent_s, await refused_keys(place) - refused
    flooding.terminate()
    out, _ = await flooding.communicate()
    sent, _, errors = map(int, out.decode().splitlines()[-1].split())
    print(f"{refused / seconds:.0f} wrong keys refused a second; {sent} sent in all, {errors} connections refused")
    print(f"the gateway used {spent_s / seconds * 100:.0f} % of a processor, {spent_s / refused * 1000:.2f} ms a key")
    return times


def shown(name: str, times: list[float]) -> str:
    """Return a line about times in seconds."""
    p50, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
    return f"{name:<12} {len(times):>5} requests   p50 {p50 * 1000:6.2f} ms   p99 {p99 * 1000:7.2f} ms"


def cpu_s(process: psutil.Process) -> float:
    """Return the seconds of processor time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def refused_keys(place: World) -> float:
    """Return how many wrong keys the gateway has refused."""
    async with aiohttp.ClientSession() as http, http.get(f"{place.gateway}/metrics") as response:
        lines = (await response.text()).splitlines()
    wanted = 'mailfold_api_keys_refused_total{why="unknown"} '
    return next((float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted)), 0.0)


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
