"""Measure the whole path: from a posted batch to its conversions, and from an accepted webhook to its conversion.

The latency of the second is measured idle, at half and at 80 % load; beside the throughput stands what an email costs.
Run by `python -m bench`.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import aiohttp
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from bench import material
from bench.accept import BATCH, post, post_all
from bench.costs import UsageMeter, cpu_costs, read_cpu, usage_costs
from bench.figures import Cost, Delay, Rate, pace
from bench.house import World
from pipeline.content.tokens import echo_tag
from pipeline.devstack.sandbox.keys import SIGNATURE_HEADER, TIMESTAMP_HEADER, private_key, sign
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.runtime.secrets.signing import Signer
from pipeline.webhooks.base import EMAIL_ID_KEY, EMAIL_TAG_KEY

ROLES = ("gateway", "worker", "dispatch", "project", "emit", "sandbox")
DELIVERED = ""
"""Pattern of addresses for which the sandbox sends `delivered`, so that there is one conversion per email."""
PROBES_FROM, HALF_LOAD_FROM, WARM_FROM, COUNTED_FROM, HIGH_LOAD_FROM = (number * 10**7 for number in range(1, 6))
WARM_UP_MAX_ROUNDS = 12
WARM_ENOUGH = 0.93
"""A round of the warm-up is the last if it took at least this share of Kafka's least CPU time per email so far: the JVM
compiles its code while it runs."""
GOAL_P50, GOAL_P99 = 150.0, 500.0


class _Conversion(msgspec.Struct):
    email_id: str


class Arrivals:
    """A receiver in place of Fast Track that records when the first conversion of each email arrived."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self._decode = msgspec.json.Decoder(_Conversion).decode

    async def __call__(self, request: web.Request) -> web.Response:
        """Record and accept a conversion."""
        now = time.perf_counter()
        self.at.setdefault(self._decode(await request.read()).email_id, now)
        return web.Response()


class Whole:
    """The running stack, with its caller and its receiver."""

    def __init__(self, world: World, arrivals: Arrivals, http: aiohttp.ClientSession) -> None:
        self.world = world
        self.arrivals = arrivals
        self.http = http
        self.meter = UsageMeter(world)
        self._key: ec.EllipticCurvePrivateKey = private_key(world.settings.data_dir)
        self._signer = Signer(secret_ring(world.settings), "echo")

    async def heard(self, numbers: range) -> None:
        """Wait until each of these emails has had a conversion."""
        ids = [material.email_id(number) for number in numbers]

        async def progress() -> int:
            return sum(email_id in self.arrivals.at for email_id in ids)

        await pace(progress, len(ids), self.world.size.within)

    async def warm_up(self) -> None:
        """Send emails until a new stack has connections and imports, and Kafka's CPU time per email is flat."""
        await self.send(range(WARM_FROM, WARM_FROM + 20))
        least, amount = float("inf"), max(20, self.world.size.whole // 3)
        start = WARM_FROM + 20
        for _ in range(WARM_UP_MAX_ROUNDS):
            before = read_cpu()["kafka"]
            await self.send(range(start, start + amount))
            start += amount
            took = (read_cpu()["kafka"] - before) / amount
            if took >= WARM_ENOUGH * least:
                return
            least = min(least, took)

    async def throughput(self) -> tuple[float, list[Cost]]:
        """Return the emails per second from the first posted batch to the last conversion, and the costs of one."""
        total = self.world.size.whole
        before = await self.meter.begin()
        seconds = await self.send(range(total))
        await self.meter.until_quiet()
        costs = usage_costs("whole path", before, await self.meter.end(), total, "email")
        return total / seconds, costs

    async def statements(self) -> Cost:
        """Return the statements that Postgres executes for an email."""
        numbers = range(COUNTED_FROM, COUNTED_FROM + max(20, self.world.size.whole // 6))
        async with self.meter.counted_statements() as counts:
            await self.send(numbers)
            await self.meter.until_quiet()
        return Cost("whole path", "Postgres statements", "count/email", counts[0] / len(numbers))

    async def idle_cpu(self) -> list[Cost]:
        """Return the CPU time of each program while there is nothing to do, in percent of a core."""
        seconds = min(10.0, self.world.size.within / 18)
        before = read_cpu()
        await asyncio.sleep(seconds)
        # Milliseconds for each ten milliseconds are percent.
        costs = cpu_costs("idle", before, read_cpu(), int(seconds * 10), "")
        return [Cost(cost.stage, cost.what, "% of a core", cost.value) for cost in costs]

    async def send(self, numbers: range) -> float:
        """Post emails and wait for a conversion of each; return the seconds that it took."""
        bodies = [
            material.batch(range(start, min(start + BATCH, numbers.stop)), DELIVERED)
            for start in range(numbers.start, numbers.stop, BATCH)
        ]
        began = time.perf_counter()
        await post_all(self.http, self.world, bodies)
        await self.heard(numbers)
        return time.perf_counter() - began

    async def prepare(self, numbers: range) -> None:
        """Send emails for which the sandbox sends no events, so that we can post them, and wait until they are sent."""
        for start in range(numbers.start, numbers.stop, BATCH):
            await post(self.http, self.world, material.batch(range(start, min(start + BATCH, numbers.stop)), "+silent"))
        sandbox = f"{self.world.sandbox}/healthz"
        before = 0
        while True:
            await asyncio.sleep(0.5)
            async with self.http.get(sandbox) as response:
                received = int((await response.json())["received"])
            if received == before and received > 0:
                return
            before = received

    async def probe(self, numbers: range, pause: float) -> tuple[float, ...]:
        """Return the milliseconds from the 2xx of each webhook to the POST of its conversion, one after the other."""
        accepted: dict[str, float] = {}
        for number in numbers:
            accepted[material.email_id(number)] = await self._webhook(number)
            await asyncio.sleep(pause)
        await self.heard(numbers)
        return tuple((self.arrivals.at[email_id] - at) * 1000 for email_id, at in accepted.items())

    async def bare(self, total: int) -> tuple[float, ...]:
        """Return the milliseconds that each of ``total`` plain GETs of the gateway takes; this is the peer."""
        took = []
        origin = self.world.settings.public_url
        for _ in range(total):
            began = time.perf_counter()
            async with self.http.get(f"{origin}/healthz") as response:
                await response.read()
            took.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(0.005)
        return tuple(took)

    @contextlib.asynccontextmanager
    async def load(self, start: int, per_second: float) -> AsyncIterator[None]:
        """Post emails from number ``start`` on at this rate while the block runs, ten small batches a second."""

        async def flow() -> None:
            number, began = start, time.perf_counter()
            while True:
                due = start + int((time.perf_counter() - began) * per_second)
                if due > number:
                    await post(self.http, self.world, material.batch(range(number, due), DELIVERED))
                    number = due
                await asyncio.sleep(0.1)

        task = asyncio.create_task(flow())
        try:
            await asyncio.sleep(2.0)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _webhook(self, number: int) -> float:
        email_id = material.email_id(number)
        event = {
            "event": "delivered",
            "email": f"player{number}@example.test",
            EMAIL_ID_KEY: email_id,
            EMAIL_TAG_KEY: echo_tag(self._signer, email_id),
            "sg_event_id": f"probe-{number}",
            "sg_message_id": f"probe-{number}",
            "timestamp": int(time.time()),
            "response": "250 OK",
        }
        body = json.dumps([event]).encode()
        timestamp = str(int(time.time()))
        headers = {TIMESTAMP_HEADER: timestamp, SIGNATURE_HEADER: sign(self._key, timestamp, body)}
        url = f"{self.world.gateway}/webhooks/{self.world.settings.sandbox_provider}"
        async with self.http.post(url, data=body, headers=headers) as response:
            await response.read()
            response.raise_for_status()
        return time.perf_counter()


async def run(world: World, arrivals: Arrivals) -> tuple[Rate, list[Delay], list[Cost]]:
    """Measure the latencies, the throughput and the costs of the whole stack."""
    probes = world.size.probes
    async with world.roles(*ROLES), aiohttp.ClientSession() as http:
        whole = Whole(world, arrivals, http)
        await whole.warm_up()
        numbers = range(PROBES_FROM, PROBES_FROM + 3 * probes)
        await whole.prepare(numbers)
        bare = await whole.bare(probes)
        await whole.meter.until_quiet()
        idle_cpu = await whole.idle_cpu()
        idle = await whole.probe(numbers[:probes], 0.03)
        rate, costs = await whole.throughput()
        async with whole.load(HALF_LOAD_FROM, 0.5 * rate):
            half = await whole.probe(numbers[probes : 2 * probes], 0.03)
        async with whole.load(HIGH_LOAD_FROM, 0.8 * rate):
            high = await whole.probe(numbers[2 * probes :], 0.03)
        await whole.meter.until_quiet()
        costs.append(await whole.statements())
    peer = "one bare GET of the gateway"
    delays = [
        Delay("webhook accepted → conversion POST, idle", idle, peer=peer, peer_millis=bare),
        Delay(f"the same at half load ({0.5 * rate:,.0f} emails/s)", half, GOAL_P50, GOAL_P99, peer, bare),
        Delay(f"the same at 80 % load ({0.8 * rate:,.0f} emails/s)", high, peer=peer, peer_millis=bare),
    ]
    return Rate("whole path", "emails", rate, "", 0.0), delays, costs + idle_cpu
