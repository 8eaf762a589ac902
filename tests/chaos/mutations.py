"""Guards of the product, each with a patch that breaks it and the scenario that must detect it.

A patch whose text is not found raises :class:`tests.chaos.source.Stale`: the guard has changed, and its mutation must
be updated.
"""

from dataclasses import dataclass

from tests.chaos.source import Patch


@dataclass(frozen=True)
class Mutation:
    """One broken guard."""

    name: str
    scenario: str
    patches: tuple[Patch, ...]
    louder: tuple[Patch, ...] = ()
    """Patches that are harmless by themselves (the baseline has them) and make the damage visible in a short run."""
    emails: int = 150
    kills: int = 4


TOPOLOGY = "pipeline/worker/topology.py"
BACKLOG = "pipeline/worker/normalizing/backlog.py"
FLOW = "pipeline/worker/streaming/app.py"
OUTLET = "pipeline/worker/streaming/producer.py"
TRANSPORT = "pipeline/worker/streaming/transport.py"

STREAMING = (
    Mutation(
        "the fold's offsets are committed before its states, in a transaction of their own",
        "held-worker",
        (
            Patch(
                OUTLET,
                "        sent = _write(self._producer, self._settings, writes, {EMAIL_CHANGES: traces})\n"
                "        added = self._add(offsets)\n",
                "        await self._add(offsets)\n"
                "        await self._producer.commit_transaction()\n"
                "        await self._producer.begin_transaction()\n"
                "        sent = _write(self._producer, self._settings, writes, {EMAIL_CHANGES: traces})\n"
                "        added = asyncio.sleep(0)\n",
            ),
        ),
    ),
    Mutation(
        "normalization acknowledges before the log has confirmed",
        "held-worker",
        (
            Patch(
                BACKLOG,
                "        await self._append(records)\n        if traced:\n",
                "        self._in_progress.put_nowait((tasks, finish))\n"
                "        await asyncio.sleep(0)\n        await self._append(records)\n        if traced:\n",
            ),
            Patch(
                BACKLOG,
                "(traced.values())))\n        self._in_progress.put_nowait((tasks, finish))\n",
                "(traced.values())))\n",
            ),
        ),
    ),
    Mutation(
        "nobody fences: each worker has transactional ids of its own",
        "zombie-write",
        (
            Patch(
                OUTLET,
                '_producer(settings, compression, f"{group}-{partition}")',
                "_producer(settings, compression, f\"{group}-{partition}-{__import__('os').getpid()}\")",
            ),
        ),
    ),
    Mutation(
        "a crashed agent is started again in the same process, and what it had in hand holds up nothing",
        "silent-normalizer",
        (
            Patch(FLOW, '"mode.CrashingSupervisor"', '"mode.OneForOneSupervisor"'),
            Patch(TRANSPORT, "        if span.start != self._position[tp]:\n", "        if span.start is None:\n"),
        ),
        # What the log didn't confirm in time lies in the producer's memory and goes out by and by, whatever became of
        # the agent. So one that crashes over something else, one time in ten; a worker that ends with it loses nothing.
        (
            Patch(
                TOPOLOGY,
                "                await backlog.add(batch.record_batch(), batch.ack)\n",
                "                if __import__('random').random() < 0.1:\n"
                '                    raise LookupError("on purpose")\n'
                "                await backlog.add(batch.record_batch(), batch.ack)\n",
            ),
        ),
    ),
)

OUTBOXES = (
    Mutation(
        "the dispatcher's next offset is written in a transaction of its own",
        "postgres-locked",
        (
            Patch(
                "pipeline/dispatch/intake.py",
                "                await self._positions.advance(connection, upto, batches)\n"
                "                await connection.commit()\n",
                "                await connection.commit()\n",
            ),
            Patch(
                "pipeline/dispatch/intake.py",
                "                await _write(connection, rows)\n                if self._rt.tracer.is_on:\n",
                "                await self._positions.advance(connection, upto, batches)\n"
                "                await connection.commit()\n"
                "                await _write(connection, rows)\n                if self._rt.tracer.is_on:\n",
            ),
        ),
    ),
    Mutation(
        "the dispatcher ignores the jobs that are there",
        # A request that lies on the log twice is rare, because the gateway knows whom it has accepted; one that is
        # read again after its ack is not.
        "replay",
        (
            Patch(
                "pipeline/dispatch/queries.sql",
                "    state = case jobs.state when 'held' then 'pending' else jobs.state end\n"
                "where jobs.lane = '' and excluded.lane <> ''",
                "    state = 'pending', due_at = now()",
            ),
            Patch(
                "pipeline/dispatch/queries.sql",
                "payload = case jobs.state when 'done' then jobs.payload else excluded.payload end",
                "payload = excluded.payload",
            ),
        ),
    ),
    Mutation(
        "requests are read before the acks of the past",
        "replay",
        (
            Patch(
                "pipeline/dispatch/intake.py",
                "if partition.topic != acks:",
                "if partition is None:",
            ),
            Patch(
                "pipeline/dispatch/ack_barrier.py",
                "if any(read.get(partition, 0) < end for partition, end in self._ends.items()):",
                "if read is None:",
            ),
        ),
        # So few records would come in one batch, whose acks are written first anyway.
        (
            Patch(
                "pipeline/dispatch/intake.py", "MAX_RECORDS_PER_POLL: Final = 2000", "MAX_RECORDS_PER_POLL: Final = 5"
            ),
        ),
    ),
    Mutation(
        "the emitter closes the debt before it tells Fast Track",
        "receiver-slow",
        (
            Patch(
                "pipeline/emit/emitter.py",
                "        reply = await self._client.post(",
                '        delivered = ConversionResponse(200, "")\n'
                "        outcome = ConversionOutcome.DELIVERED\n"
                "        await self._append_result(job, conversion, destination, delivered, outcome)\n"
                "        reply = await self._client.post(",
            ),
        ),
    ),
    Mutation(
        "an email's conversions needn't wait for each other",
        "receiver-moods",
        (
            Patch(
                "pipeline/jobs/queries.sql",
                "(o.state = 'attempting' or (o.seq < j.seq and o.state in ('held', 'pending', 'unknown')))",
                "o.state = 'nowhere'",
            ),
        ),
    ),
)

PROJECTIONS = (
    Mutation(
        "the projector's next offset is written in a transaction of its own",
        "postgres-locked",
        (
            Patch(
                "projections/sink.py",
                "            await self._write(connection, parts)\n",
                "            await self._advance(connection, parts)\n"
                "            await pipeline.sync()\n"
                "        async with connection.pipeline() as pipeline, connection.transaction():\n"
                "            await self._enter(connection)\n"
                "            await self._write(connection, parts)\n",
            ),
            Patch(
                "projections/sink.py",
                '            self.crash_point("project.between-rows-and-offset")\n'
                "            await self._advance(connection, parts)\n",
                '            self.crash_point("project.between-rows-and-offset")\n',
            ),
        ),
    ),
    Mutation(
        "debts that a replay finds are due at once",
        "replay",
        (
            Patch(
                "projections/sink.py",
                "held_to = end if self.live and end > beginning else None",
                "held_to = None",
            ),
        ),
        # So few changes would come in one run, which knows at once what is settled.
        (
            Patch(
                "pipeline/project/partition.py",
                "TRANSACTION_MAX_RECORDS: Final = 1000",
                "TRANSACTION_MAX_RECORDS: Final = 5",
            ),
        ),
    ),
)

LOG = (
    Mutation(
        "events are not told apart by their ids",
        "kill-any",
        (
            Patch(
                "topics/join.py", "    if len(ids) > MAX_IDS_PER_MARK or not _covers(ids, b.ids):\n", "    if b.ids:\n"
            ),
            Patch("topics/join.py", "tuple(sorted({*ids, *b.ids}))[:MAX", "tuple(sorted([*ids, *b.ids]))[:MAX"),
        ),
    ),
    Mutation(
        "the gateway answers 2xx to what the log has not confirmed",
        "held-gateway",
        (Patch("pipeline/gateway/routes/webhooks.py", "if None in positions:", "if not positions:"),),
    ),
)

HARMLESS = (
    # Guards that another guard stands behind: runs are taken, folded and finished in their partition's order, whoever
    # does it, and a run that nobody finished holds up what comes after it. Each alone must break nothing.
    Mutation("two actors fold at once", "kill-any", (Patch(FLOW, "concurrency=1", "concurrency=2"),)),
    Mutation(
        "a crashed agent is started again in the same process",
        "silent-worker",
        (Patch(FLOW, '"mode.CrashingSupervisor"', '"mode.OneForOneSupervisor"'),),
    ),
)
"""Mutations that another guard makes harmless; tests check that they are, so that this is known to stay true."""

MUTATIONS = (*STREAMING, *OUTBOXES, *PROJECTIONS, *LOG)
