"""`python -m pipeline.worker.normalizing.process`: reads jobs from standard input, writes records to standard output.

:mod:`pipeline.worker.normalizing.pool` starts and ends it. The kernel ends it when a job takes too much processor time,
even within a regular expression, which no thread and no event loop can interrupt.
"""

import contextlib
import os
import resource
import signal
import sys
from typing import BinaryIO

import msgspec

from pipeline.runtime.secrets.secret_ring import SecretRing
from pipeline.webhooks.normalize import normalized_records
from pipeline.webhooks.token_readers import token_readers
from pipeline.worker.normalizing.wire import (
    LENGTH_BYTES,
    NormalizerSettings,
    NormalizingJob,
    encode_frame,
    frame_length,
)


def main() -> None:
    """Process jobs until standard input ends, which it does when the worker ends."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not get between the frames
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a signal to the whole process group is for the worker to handle
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    settings = msgspec.msgpack.decode(_read(source), type=NormalizerSettings)
    _limit_memory(settings.memory_limit_bytes)
    readers = token_readers(SecretRing.of(*settings.secrets))
    _write(sink, encode_frame(True))
    jobs = msgspec.msgpack.Decoder(NormalizingJob)
    while frame := _read(source):
        job = jobs.decode(frame)
        signal.setitimer(signal.ITIMER_PROF, settings.cpu_limit_s)
        answer = encode_frame(normalized_records(job.consumed_record(), readers, job.now))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(sink, answer)


def _limit_memory(limit_bytes: int) -> None:
    # Not every system supports this limit, and an operator may have set a lower one.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def _read(source: BinaryIO) -> bytes:
    """Return the next frame; empty at the end."""
    prefix = source.read(LENGTH_BYTES)
    return source.read(frame_length(prefix)) if len(prefix) == LENGTH_BYTES else b""


def _write(sink: BinaryIO, frame: bytes) -> None:
    sink.write(frame)
    sink.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
