"""Measure events folded per second, by the commits of the consumer group. Run by `python -m bench`.

The peer is a plain `getmany` loop over the same topics.
"""

import time

from aiokafka.admin import AIOKafkaAdminClient

from bench import material
from bench.costs import pace_with_costs
from bench.figures import Cost, Rate
from bench.house import World
from bench.log import committed, drain, produce
from pipeline.runtime.ports import LogEntry
from topics.acks import Acked
from topics.changes import Fact
from topics.events import DeliveryEvent
from topics.registry import DELIVERY_EVENTS, PROVIDER_ACKS, SEND_REQUESTS, Topic

FED = (SEND_REQUESTS.name, PROVIDER_ACKS.name, DELIVERY_EVENTS.name)


async def run(world: World) -> tuple[Rate, list[Cost]]:
    """Measure a worker that starts when the four facts of each email are on their topics already."""
    keys = world.size.fold_keys
    total = 4 * keys
    # The first fact of all emails, then the second …, so that the facts of an email are far apart, as in production.
    await produce(world.settings, (_entry(material.facts(key)[part]) for part in range(4) for key in range(keys)))
    names = [world.settings.topic(name) for name in FED]
    admin = AIOKafkaAdminClient(bootstrap_servers=world.settings.kafka_bootstrap)
    await admin.start()
    try:
        async with world.roles("worker"):
            group = f"{world.settings.topic_prefix}mailfold"
            rate, costs = await pace_with_costs(
                lambda: committed(admin, group, names), total, world.size.within, stage="fold", unit="event"
            )
    finally:
        await admin.close()
    began = time.perf_counter()
    await drain(world.settings, *FED)
    bare = total / (time.perf_counter() - began)
    return Rate("fold", "events", rate, "bare getmany, nothing decoded", bare), costs


def _entry(fact: Fact) -> LogEntry:
    topic: Topic = SEND_REQUESTS
    if isinstance(fact, DeliveryEvent):
        topic = DELIVERY_EVENTS
    elif isinstance(fact, Acked):
        topic = PROVIDER_ACKS
    return LogEntry(topic, fact.email_id, fact)
