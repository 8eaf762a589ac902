"""`python -m pipeline.worker.normalizing.process`: jobs on standard input, what came of them on standard output.

Started and ended by :mod:`pipeline.worker.normalizing.pool`. The kernel ends it when a job takes too much processor
time, in the middle of a regular expression, too, which no thread and no event loop can interrupt.
"""

import contextlib
import os
import resource
import signal
import sys
from typing import BinaryIO

import msgspec

from pipeline.webhooks.normalize import normalized_records
from pipeline.webhooks.proofs import token_readers
from pipeline.worker.normalizing.wire import (
    LENGTH_BYTES,
    NormalizerSettings,
    NormalizingJob,
    encode_frame,
    frame_length,
)


def main() -> None:
    """Work until standard input ends, as it does with the worker."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no frame
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # both may be sent to a whole group: they are the worker's to hear
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    terms = msgspec.msgpack.decode(_read(source), type=NormalizerSettings)
    _limit(terms)
    ours = token_readers(terms.secret, terms.secret_previous)
    _write(sink, encode_frame(True))
    jobs = msgspec.msgpack.Decoder(NormalizingJob)
    while frame := _read(source):
        job = jobs.decode(frame)
        signal.setitimer(signal.ITIMER_PROF, terms.cpu_limit_s)
        answer = encode_frame(normalized_records(job.consumed_record(), ours, job.now))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(sink, answer)


def _limit(terms: NormalizerSettings) -> None:
    # Not every system knows this limit, and an operator may have set a lower one.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (terms.memory_limit_bytes, terms.memory_limit_bytes))


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
