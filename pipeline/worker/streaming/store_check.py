"""Remove local stores that are no copies of the changelog, before Faust recovers them from it.

One of another cluster or topic has states that may not be on this log, at offsets that mean something else here. One
with states from beyond the end of the changelog is left after Kafka was restored to an older moment, and Faust would
end the worker at every start.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from aiokafka.errors import KafkaError

from pipeline.errors import LogUnavailable
from pipeline.runtime.kafka.clients import create_consumer, start_client
from pipeline.settings import Settings
from topics.registry import EMAIL_STATES

END_TIMEOUT_S: Final = 10.0
"""Seconds in which a broker that has just become a partition's leader must know how far the log was confirmed."""


async def discard_other_stores(settings: Settings, store: Any, assigned: Iterable[Any], cluster_id: str) -> None:
    """Remove the stores of these partitions that are of another log, or ahead of this one. Raise LogUnavailable."""
    name = settings.topic(EMAIL_STATES.name)
    partitions = [tp for tp in assigned if tp.topic == name]
    for tp in partitions:
        store.discard_if_foreign(tp, cluster_id)
    found = {tp: store.persisted_offset(tp) for tp in partitions}
    offsets = {tp: offset for tp, offset in found.items() if offset is not None}
    if not offsets:
        return
    consumer = create_consumer(settings)
    await start_client(consumer, settings)
    try:
        deadline = asyncio.get_running_loop().time() + END_TIMEOUT_S
        ends = await consumer.end_offsets(list(offsets))
        while any(offsets[tp] >= ends[tp] for tp in offsets) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.5)
            ends = await consumer.end_offsets(list(offsets))
    except KafkaError as error:
        raise LogUnavailable(f"the end of {name} is not known: {error}") from error
    finally:
        await consumer.stop()
    for tp, end in ends.items():
        store.discard_if_ahead(tp, end)
