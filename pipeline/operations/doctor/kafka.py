"""Check the Kafka cluster: brokers and certificates, the replicas of our topics, their configuration, and clocks."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

from aiokafka.errors import KafkaError

from pipeline.operations.doctor.certificates import CONNECT_TIMEOUT_S, end_finding, read_tls_certificate
from pipeline.operations.doctor.finding import DoctorFinding, fail, ok, warn
from pipeline.runtime.kafka import topic_admin
from pipeline.runtime.kafka.clients import create_consumer, start_client
from pipeline.runtime.kafka.log import discover_partitions, min_in_sync_replicas
from pipeline.runtime.kafka.security import security_options
from pipeline.runtime.kafka.topic_admin import BrokerAddress, ClusterDescription
from pipeline.settings import Settings
from topics.registry import DELIVERY_EVENTS, EMAIL_CHANGES, PROVIDER_ACKS, SEND_REQUESTS

CLOCK_TOLERANCE_S: Final = 2.0
"""Seconds that a record's time may be ahead of this machine's clock."""
TIMED_TOPICS: Final = (SEND_REQUESTS, PROVIDER_ACKS, DELIVERY_EVENTS, EMAIL_CHANGES)
"""Topics that different roles write, each with its own machine's clock."""
MAX_NAMES: Final = 3


async def check_kafka(settings: Settings) -> AsyncIterator[DoctorFinding]:
    """Yield the findings about the cluster."""
    if not settings.kafka_bootstrap:
        yield fail("KAFKA_BOOTSTRAP is not set, and no stack runs here", "set it, or start `mailfold up`")
        return
    cluster = await topic_admin.describe_cluster(settings)
    yield ok(f"{len(cluster.brokers)} brokers answer")
    for finding in await asyncio.gather(*(_check_broker(broker, settings) for broker in cluster.brokers)):
        if finding is not None:
            yield finding
    for finding in find_replica_problems(cluster, settings):
        yield finding
    problems = await topic_admin.differences(settings)
    for problem in problems:
        yield fail(problem)
    if not problems:
        yield ok("all topics have the partitions, retention and limits of the registry")
    yield await _check_clock(settings)


def find_replica_problems(cluster: ClusterDescription, settings: Settings) -> Iterator[DoctorFinding]:
    """Yield what is wrong with the replicas of our partitions, or that nothing is."""
    rows = {f"{row.topic}/{row.partition}": row for row in cluster.partitions}
    leaderless = [name for name, row in rows.items() if row.leader < 0]
    minimum = min_in_sync_replicas(settings)
    too_few = [name for name, row in rows.items() if row.leader >= 0 and len(row.in_sync) < minimum]
    lagging = [name for name, row in rows.items() if minimum <= len(row.in_sync) < len(row.replicas)]
    if leaderless:
        yield fail(f"no leader: {_some(leaderless)}", "their brokers are down: start them")
    if too_few:
        yield fail(
            f"fewer than {minimum} replicas in sync, so that no write is confirmed: {_some(too_few)}",
            "start the missing brokers",
        )
    if lagging:
        yield warn(f"not all replicas in sync: {_some(lagging)}", "a broker is down or slow; find out which")
    if rows and not (leaderless or too_few or lagging):
        yield ok(f"all replicas of {len(rows)} partitions are in sync")
    if any(len(row.replicas) == 1 for row in rows.values()):
        yield warn(
            "topics have one replica: the loss of one broker's disk loses accepted mail",
            "use three brokers and MAILFOLD_REPLICATION_FACTOR=3 where mail matters",
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


async def _check_broker(broker: BrokerAddress, settings: Settings) -> DoctorFinding | None:
    """Return why a broker can't be reached, or until when its certificate is valid; None where it has none."""
    place = f"broker {broker.node_id} at {broker.host}:{broker.port}"
    try:
        certificate = await read_tls_certificate(
            broker.host, broker.port, security_options(settings).get("ssl_context")
        )
    except TimeoutError:
        error = f"no answer within {CONNECT_TIMEOUT_S:.0f} s"
    except OSError as problem:
        error = str(problem)
    else:
        return None if certificate is None else end_finding(place, certificate.not_valid_after_utc)
    return fail(
        f"{place} can't be reached from here: {error}",
        "is it up? Is that address, its advertised.listeners, right for this network, and in its certificate?",
    )


async def _check_clock(settings: Settings) -> DoctorFinding:
    """Return whether any record has a time that this machine's clock has not reached."""
    reader = create_consumer(settings)
    await start_client(reader, settings)
    try:
        partitions = await discover_partitions(reader, *(settings.topic(topic.name) for topic in TIMED_TOPICS))
        reader.assign(partitions)
        future_ms = int((time.time() + CLOCK_TOLERANCE_S) * 1000)
        found = await reader.offsets_for_times(dict.fromkeys(partitions, future_ms))
    except KafkaError as error:
        return fail(f"times of records can't be read: {type(error).__name__}")
    finally:
        await reader.stop()
    ahead = {place: at.timestamp / 1000 - time.time() for place, at in found.items() if at is not None}
    if not ahead:
        return ok("no record has a time in the future")
    place, seconds = max(ahead.items(), key=lambda item: item[1])
    return fail(
        f"a record of {place.topic}/{place.partition} is {seconds:.0f} s ahead of this machine's clock",
        "compare the clocks of this machine and of the roles' machines with a time server (chrony, ntpd)",
    )
