"""A pool of processes that normalize large webhooks and mails within limits of time and memory.

Python's `re` and `json` hold the interpreter lock, so a thread would block the worker's event loop, and nothing could
end it. The kernel ends a process that exceeds its processor time; its item becomes a dead letter, and the next item
gets a new process. `worker.main` opens the pool.
"""

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from pipeline.errors import RecoverableError
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.observing.logs import get_logger
from pipeline.runtime.ports import Clock
from pipeline.runtime.secrets.secret_ring import secret_ring
from pipeline.settings import Settings
from pipeline.webhooks.normalize import ROLE, EncodedRecord, encoded_dead_letters
from pipeline.worker.normalizing.wire import (
    LENGTH_BYTES,
    NormalizerSettings,
    NormalizingJob,
    encode_frame,
    frame_length,
)
from topics.codec import NewerRecord, require_known_version

MAX_PROCESSES: Final = 2
"""Processes at the same time. They start when first needed and take about 60 MB each."""
CPU_LIMIT_S: Final = 2.0
"""Seconds of processor time for one item. The parsers are linear: 900 kB of mail or webhook take a tenth of it."""
ANSWER_TIMEOUT_S: Final = 60.0
"""Seconds of wall time for an answer. On a machine that was frozen it is over on waking, so an item that exceeds it is
tried once more."""
START_TIMEOUT_S: Final = 60.0
END_TIMEOUT_S: Final = 2.0
"""Seconds for a process to end by itself, of the ten that the worker has after SIGTERM."""
MEMORY_LIMIT_BYTES: Final = 2 * 1024**3
MAX_ATTEMPTS: Final = 2
"""Attempts for an item whose process died for another reason than processor time, such as the kernel's memory need."""
PROCESS_COMMAND: Final = (sys.executable, "-m", "pipeline.worker.normalizing.process")

_OUTPUTS: Final = msgspec.msgpack.Decoder(list[EncodedRecord])
_log = get_logger("mailfold.worker")


class CpuLimitExceeded(Exception):
    """The item exceeded the limit of processor time."""


class ProcessDied(Exception):
    """The process ended or timed out before it answered."""


class NormalizerProcess:
    """A child process that normalizes one item at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str], settings: NormalizerSettings) -> "NormalizerProcess":
        """Return a process that is ready. Raises RecoverableError."""
        try:
            process = cls(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE))
        except OSError as error:
            raise RecoverableError(f"no normalizing process can be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await process._send(encode_frame(settings))
                await process._receive()
        except (ProcessDied, TimeoutError) as error:
            await process.end(0)
            raise RecoverableError("a normalizing process does not start") from error
        except BaseException:
            await process.end(0)
            raise
        return process

    @property
    def is_running(self) -> bool:
        """Return whether the process is not known to have ended."""
        return self._process.returncode is None

    async def run_job(self, job: NormalizingJob) -> list[EncodedRecord]:
        """Return a job's records. Raises CpuLimitExceeded and ProcessDied, after which the process is gone."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._send(encode_frame(job))
                return _OUTPUTS.decode(await self._receive())
        except TimeoutError:
            await self.end(0)
            raise ProcessDied(f"no answer within {ANSWER_TIMEOUT_S:g} s") from None
        except (ProcessDied, ValueError) as error:
            code = await self.end(END_TIMEOUT_S)
            if code == -signal.SIGPROF:
                raise CpuLimitExceeded from None
            raise ProcessDied(f"exit code {code}") from error
        except BaseException:
            await self.end(0)
            raise

    async def end(self, timeout_s: float) -> int:
        """Wait ``timeout_s`` for the process to end, then kill it; return its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return await self._process.wait()

    async def _send(self, frame: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame)
            await self._process.stdin.drain()
        except (OSError, RuntimeError) as error:  # uvloop raises RuntimeError for a closed pipe
            raise ProcessDied from error

    async def _receive(self) -> bytes:
        assert self._process.stdout is not None
        try:
            prefix = await self._process.stdout.readexactly(LENGTH_BYTES)
            return await self._process.stdout.readexactly(frame_length(prefix))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ProcessDied from error


class NormalizerPool:
    """Runs each item in a process of its own and keeps idle processes for the next items."""

    def __init__(
        self,
        settings: NormalizerSettings,
        clock: Clock,
        command: Sequence[str] = PROCESS_COMMAND,
        size: int = MAX_PROCESSES,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._command = command
        self._slots = asyncio.Semaphore(size)
        self._idle: list[NormalizerProcess] = []

    async def normalize(self, webhook: ConsumedRecord) -> list[EncodedRecord]:
        """Return a webhook's records, or a dead letter if it exceeds its limits.

        Raises RecoverableError, and NewerRecord for a version that only a newer worker knows.
        """
        try:
            require_known_version(webhook.topic, webhook.value)
        except NewerRecord as error:
            raise error.at(webhook.place) from None
        reason = ""
        for attempt in range(MAX_ATTEMPTS):
            try:
                return await self._run_once(webhook, in_new_process=attempt > 0)
            except CpuLimitExceeded:
                reason = f"took more than {self._settings.cpu_limit_s:g} s of processor time"
                break
            except ProcessDied as error:
                reason = f"its process ended: {error}"
        _log.error("webhook not normalized, now a dead letter", position=str(webhook.place), error=reason)
        return encoded_dead_letters([webhook.dead_letter(self._clock(), "too-long", reason, role=ROLE)])

    async def close(self) -> None:
        """End all idle processes."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(process.end(END_TIMEOUT_S) for process in idle))

    async def _run_once(self, webhook: ConsumedRecord, *, in_new_process: bool) -> list[EncodedRecord]:
        """Normalize in one process; after a death in a new one, because the same cause may have ended the idle ones."""
        async with self._slots:
            if in_new_process:
                await self.close()
            process = self._take_idle() or await NormalizerProcess.start(self._command, self._settings)
            records = await process.run_job(NormalizingJob.of(webhook, self._clock()))
            self._idle.append(process)
            return records

    def _take_idle(self) -> NormalizerProcess | None:
        """Remove and return an idle process that is still running; drop the ones that have ended."""
        while self._idle:
            if (process := self._idle.pop()).is_running:
                return process
        return None


@contextlib.asynccontextmanager
async def open_normalizer_pool(settings: Settings, clock: Clock) -> AsyncIterator[NormalizerPool]:
    """Yield a pool that verifies with the settings' secrets; its processes end with the block."""
    secrets = secret_ring(settings).values
    pool = NormalizerPool(NormalizerSettings(secrets, CPU_LIMIT_S, MEMORY_LIMIT_BYTES), clock)
    try:
        yield pool
    finally:
        await pool.close()
