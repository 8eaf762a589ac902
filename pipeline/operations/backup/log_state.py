"""Read which Kafka cluster this is and where its topics end; a backup and its restoration compare the two."""

from pipeline.operations.backup.contents import LogState
from pipeline.runtime.kafka.clients import create_consumer, start_client
from pipeline.runtime.kafka.log import discover_partitions
from pipeline.runtime.kafka.topic_admin import describe_cluster
from pipeline.settings import Settings
from topics.registry import ROLE_TOPICS


async def read_log_state(settings: Settings) -> LogState:
    """Return the cluster's id and the end of each partition of our topics. Raise LogUnavailable."""
    cluster_id = (await describe_cluster(settings)).cluster_id
    reader = create_consumer(settings)
    await start_client(reader, settings)
    try:
        partitions = await discover_partitions(reader, *(settings.topic(topic.name) for topic in ROLE_TOPICS))
        ends = await reader.end_offsets(partitions)
    finally:
        await reader.stop()
    prefix_chars = len(settings.topic_prefix)
    return LogState(
        cluster_id=cluster_id,
        topic_prefix=settings.topic_prefix,
        ends={f"{place.topic[prefix_chars:]}/{place.partition}": end for place, end in sorted(ends.items())},
    )


def describe_difference(before: LogState, now: LogState) -> str:
    """Return how the log differs from what it was, in words; empty if it only became longer."""
    if (before.cluster_id, before.topic_prefix) != (now.cluster_id, now.topic_prefix):
        return (
            f"the backup was made with another log ({before.cluster_id} {before.topic_prefix}): nothing that names a "
            "place on the log was restored"
        )
    shorter = [
        f"{name} ends at {now.ends.get(name, 0)}, before at {end}"
        for name, end in before.ends.items()
        if now.ends.get(name, 0) < end
    ]
    more = f" and {len(shorter) - 1} more" if len(shorter) > 1 else ""
    return f"the log is shorter than when the backup was made: {shorter[0]}{more}" if shorter else ""
