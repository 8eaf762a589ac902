"""The frames between the worker and a normalizing process: a length prefix followed by MessagePack."""

from typing import Any, Final

import msgspec

from pipeline.runtime.kafka.consumed import ConsumedRecord
from topics.record import LogPosition, Millis
from topics.registry import PROVIDER_WEBHOOKS

LENGTH_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""Bytes of an answer, at most: an item has less than 1 MB, and each of its events repeats the provider's own event."""


class NormalizerSettings(msgspec.Struct, array_like=True, frozen=True):
    """The first frame: the process's secrets and limits. Secrets are sent here: process lists show arguments."""

    secrets: tuple[str, ...]
    """The one that signs first."""
    cpu_limit_s: float
    memory_limit_bytes: int


class NormalizingJob(msgspec.Struct, array_like=True, frozen=True):
    """A record of `provider-webhooks` to normalize, with its place and the current time."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    now: Millis

    @classmethod
    def of(cls, webhook: ConsumedRecord, now: Millis) -> "NormalizingJob":
        """Return the job that normalizes a webhook."""
        return cls(webhook.place.partition, webhook.place.offset, webhook.key, webhook.value, now)

    def consumed_record(self) -> ConsumedRecord:
        """Return the record with its place."""
        place = LogPosition(topic=PROVIDER_WEBHOOKS.name, partition=self.partition, offset=self.offset)
        return ConsumedRecord(PROVIDER_WEBHOOKS, place, self.key, self.value)


def encode_frame(message: Any) -> bytes:
    """Return the frame of a message."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def frame_length(prefix: bytes) -> int:
    """Return the size of a frame's body in bytes. Raises ValueError if it exceeds `MAX_FRAME_BYTES`."""
    size = int.from_bytes(prefix, "big")
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes")
    return size
