"""Skip a record of a newer version, so that readers pass over it; `mailfold topics skip` calls it."""

from typing import Final

from pipeline.errors import NotFound, Refused
from pipeline.operations.originals import read_record
from pipeline.runtime.kafka.consumed import ConsumedRecord
from pipeline.runtime.kafka.log import append_all, open_kafka_log
from pipeline.runtime.kafka.skipped_records import SKIPPED, SkippedRecords
from pipeline.runtime.ports import Clock, LogEntry
from pipeline.settings import Settings
from topics.codec import NewerRecord, require_known_version
from topics.record import LogPosition
from topics.registry import DEAD_LETTERS, EMAIL_STATES, OPERATOR_ACTIONS, TOPICS, Topic

ROLE: Final = "operator"
UNREAD_TOPICS: Final = (EMAIL_STATES, DEAD_LETTERS, OPERATOR_ACTIONS)
"""Topics that no role reads record by record."""


async def skip_record(settings: Settings, place: LogPosition, reason: str, clock: Clock) -> LogPosition:
    """Append the dead letter by which readers pass over the record at ``place``; return the letter's own place.

    Raise Refused for a record that this version can read, that is skipped already, or of another topic; NotFound where
    the log has no such record.
    """
    topic = _skippable_topic(place.topic)
    key, value = await read_record(settings, place)
    consumed = ConsumedRecord(topic, place, key, value)
    try:
        require_known_version(topic, value)
    except NewerRecord as error:
        digest = error.digest
        letter = consumed.dead_letter(clock(), SKIPPED, f"{reason} ({error})", role=ROLE)
    else:
        raise Refused(f"{place} has no newer version than this program knows: no reader stops there because of it")
    if await SkippedRecords(settings).include(place, digest):
        raise Refused(f"{place} is skipped already; a reader that still stops there must be able to read dead-letters")
    async with open_kafka_log(settings) as log:
        [written] = await append_all(log, [LogEntry(DEAD_LETTERS, None, letter)])
    return written


def _skippable_topic(name: str) -> Topic:
    """Return the topic of this name. Raise NotFound and Refused."""
    topic = next((topic for topic in TOPICS if topic.name == name), None)
    if topic is None:
        raise NotFound(f"{name}: no topic of Mailfold's; give its name without MAILFOLD_TOPIC_PREFIX")
    if topic in UNREAD_TOPICS:
        raise Refused(f"{name}: nothing in it can be skipped, because no role reads it record by record")
    return topic
