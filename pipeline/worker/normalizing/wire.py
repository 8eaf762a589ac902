"""What the worker and a normalizing process say to each other: frames of MessagePack behind their length."""

from typing import Any, Final

import msgspec

from pipeline.runtime.consumed import ConsumedRecord
from topics.record import LogPosition, Millis
from topics.registry import PROVIDER_WEBHOOKS

LENGTH_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""Of an answer: an item has less than one MB, and each of its events is told once, beside the provider's own words."""


class NormalizerSettings(msgspec.Struct, array_like=True, frozen=True):
    """The first frame: the process's secrets and limits. Secrets travel here, where no list of processes shows them."""

    secret: str
    secret_previous: str
    cpu_limit_s: float
    memory_limit_bytes: int


class NormalizingJob(msgspec.Struct, array_like=True, frozen=True):
    """A record of `provider-webhooks`."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    now: Millis

    @classmethod
    def of(cls, found: ConsumedRecord, now: Millis) -> "NormalizingJob":
        """Return the job of a record."""
        return cls(found.place.partition, found.place.offset, found.key, found.value, now)

    def consumed_record(self) -> ConsumedRecord:
        """Return the record with its place."""
        place = LogPosition(topic=PROVIDER_WEBHOOKS.name, partition=self.partition, offset=self.offset)
        return ConsumedRecord(PROVIDER_WEBHOOKS, place, self.key, self.value)


def encode_frame(message: Any) -> bytes:
    """Return the frame of a message."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def frame_length(prefix: bytes) -> int:
    """Return the bytes that follow a frame's length. Raises ValueError for more than any frame has."""
    size = int.from_bytes(prefix, "big")
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes")
    return size
