"""A few processes that normalize what may take long, each item within limits of time and memory.

Python's `re` and `json` hold the interpreter, so a thread would stop the worker's event loop all the same, and nothing
could end it. A process that exceeds its processor time is ended by the kernel; its item becomes a dead letter, and the
next item gets a new process.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from pipeline.errors import RecoverableError
from pipeline.runtime.consumed import ConsumedRecord
from pipeline.runtime.ports import Clock
from pipeline.settings import Settings
from pipeline.webhooks.normalize import ROLE, EncodedRecord, encoded_dead_letters
from pipeline.worker.normalizing.wire import (
    LENGTH_BYTES,
    NormalizerSettings,
    NormalizingJob,
    encode_frame,
    frame_length,
)

MAX_PROCESSES: Final = 2
"""At once. They start when they are first needed, and take about 60 MB each."""
CPU_LIMIT_S: Final = 2.0
"""Processor time for one item. The parsers are linear: 900 kB of mail or webhook take about a tenth of it."""
ANSWER_TIMEOUT_S: Final = 60.0
"""For an answer, whatever the process waits for. A machine that was frozen finds it over when it wakes, so an item is
tried once more after it."""
START_TIMEOUT_S: Final = 60.0
END_TIMEOUT_S: Final = 2.0
"""For a process to end by itself, of the ten that the worker has after SIGTERM."""
MEMORY_LIMIT_BYTES: Final = 2 * 1024**3
MAX_ATTEMPTS: Final = 2
"""For an item whose process died by anything but its processor time: the kernel may have needed the memory."""
PROCESS_COMMAND: Final = (sys.executable, "-m", "pipeline.worker.normalizing.process")

_OUTPUTS: Final = msgspec.msgpack.Decoder(list[EncodedRecord])
_log = logging.getLogger("mailfold.worker")


class CpuLimitExceeded(Exception):
    """The item took more processor time than one may."""


class ProcessDied(Exception):
    """The process ended or fell silent before it answered."""


class NormalizerProcess:
    """One process; it works on one item at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str], terms: NormalizerSettings) -> "NormalizerProcess":
        """Return a process that is ready. Raises Recoverable."""
        try:
            made = cls(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE))
        except OSError as error:
            raise RecoverableError(f"no normalizing process can be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await made._send(encode_frame(terms))
                await made._receive()
        except (ProcessDied, TimeoutError) as error:
            await made.end(0)
            raise RecoverableError("a normalizing process does not start") from error
        except BaseException:
            await made.end(0)
            raise
        return made

    @property
    def is_running(self) -> bool:
        """Whether it is not known to have ended."""
        return self._process.returncode is None

    async def run_job(self, job: NormalizingJob) -> list[EncodedRecord]:
        """Return what came of a job. Raises OutOfTime, ProcessDied; the process is gone then."""
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

    async def end(self, patience_s: float) -> int:
        """Wait ``patience_s`` for the process to end, then kill it; return its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                return await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        return await self._process.wait()

    async def _send(self, frame: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frame)
            await self._process.stdin.drain()
        except (OSError, RuntimeError) as error:  # uvloop raises the latter where the pipe is closed already
            raise ProcessDied from error

    async def _receive(self) -> bytes:
        assert self._process.stdout is not None
        try:
            prefix = await self._process.stdout.readexactly(LENGTH_BYTES)
            return await self._process.stdout.readexactly(frame_length(prefix))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ProcessDied from error


class NormalizerPool:
    """Gives each item a process of its own for as long as it takes."""

    def __init__(
        self,
        terms: NormalizerSettings,
        clock: Clock,
        command: Sequence[str] = PROCESS_COMMAND,
        size: int = MAX_PROCESSES,
    ) -> None:
        self._terms = terms
        self._clock = clock
        self._command = command
        self._slots = asyncio.Semaphore(size)
        self._idle: list[NormalizerProcess] = []

    async def normalize(self, found: ConsumedRecord) -> list[EncodedRecord]:
        """Return what the record says; a dead letter where that takes too long. Raises Recoverable."""
        why = ""
        for attempt in range(MAX_ATTEMPTS):
            try:
                return await self._once(found, fresh=attempt > 0)
            except CpuLimitExceeded:
                why = f"took more than {self._terms.cpu_limit_s:g} s of processor time"
                break
            except ProcessDied as error:
                why = f"its process ended: {error}"
        _log.error("webhook not normalized, now a dead letter: place=%s error=%s", found.place, why)
        return encoded_dead_letters([found.dead_letter(self._clock(), "too-long", why, role=ROLE)])

    async def close(self) -> None:
        """End all idle processes."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(process.end(END_TIMEOUT_S) for process in idle))

    async def _once(self, found: ConsumedRecord, *, fresh: bool) -> list[EncodedRecord]:
        """Ask one process; a ``fresh`` one after a death: whatever ended that process may have ended the idle ones."""
        async with self._slots:
            if fresh:
                await self.close()
            process = self._running() or await NormalizerProcess.start(self._command, self._terms)
            answer = await process.run_job(NormalizingJob.of(found, self._clock()))
            self._idle.append(process)
            return answer

    def _running(self) -> NormalizerProcess | None:
        """Return an idle process; those that somebody ended meanwhile are forgotten."""
        while self._idle:
            if (process := self._idle.pop()).is_running:
                return process
        return None


@contextlib.asynccontextmanager
async def open_normalizer_pool(settings: Settings, clock: Clock) -> AsyncIterator[NormalizerPool]:
    """A pool under the settings' secrets; its processes end with the block."""
    secret, previous = settings.secret.get_secret_value(), settings.secret_previous.get_secret_value()
    pool = NormalizerPool(NormalizerSettings(secret, previous, CPU_LIMIT_S, MEMORY_LIMIT_BYTES), clock)
    try:
        yield pool
    finally:
        await pool.close()
