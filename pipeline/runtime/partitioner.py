"""A key in, the partition that Kafka's default partitioner gives it out. Pure; a third of aiokafka's own time."""

import struct
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_UINT32_MASK: Final = 0xFFFFFFFF


def partition_of_key(key: bytes, partitions: int) -> int:
    """The partition of ``key`` on a topic with so many."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(key: bytes) -> int:
    """Austin Appleby's MurmurHash2 with Kafka's seed (org.apache.kafka.common.utils.Utils)."""
    whole = len(key) & ~3
    found = _SEED ^ len(key)
    for word in struct.unpack(f"<{whole >> 2}I", key[:whole]):
        mixed = word * _M & _UINT32_MASK
        found = found * _M & _UINT32_MASK ^ (mixed ^ mixed >> 24) * _M & _UINT32_MASK
    if whole < len(key):
        found = (found ^ int.from_bytes(key[whole:], "little")) * _M & _UINT32_MASK
    found = (found ^ found >> 13) * _M & _UINT32_MASK
    return found ^ found >> 15
