"""Compare how long the cluster keeps records with what the promises and the settings need.

Pure; `mailfold topics check` and everything else that checks topics calls it.
"""

from collections.abc import Mapping
from typing import Final

from pipeline.settings import Settings
from topics.registry import CONVERSION_RESULTS, DAY_MS, MESSAGE_CONTENTS, PROVIDER_ACKS, SEND_REQUESTS, Topic

UNLIMITED: Final = -1
"""Kafka's value for a retention without a limit."""
Need = tuple[int, str]
"""Milliseconds for which records must be kept, or UNLIMITED, and the consequence of a shorter time."""
_OUTLIVE_REQUESTS: Final = (PROVIDER_ACKS, CONVERSION_RESULTS)
"""Topics that say what was already done about a request: they must be kept for as long as the request is."""


def needed_retention_ms(topic: Topic, settings: Settings) -> int:
    """Return the retention with which a topic is created: the registry's, or more if the settings need more."""
    return max(need for need, _ in _own_needs(topic, settings))


def retention_problems(topic: Topic, configs: Mapping[str, Mapping[str, str]], settings: Settings) -> list[str]:
    """Return what is wrong with the retention of a topic, a line for each problem, without the topic's name.

    ``configs`` has the configurations of the cluster's topics, by the registry's names. A longer retention than
    needed is right.
    """
    if topic.cleanup != "delete":
        return []
    config = configs[topic.name]
    problems = []
    if (size := config.get("retention.bytes", str(UNLIMITED))) != str(UNLIMITED):
        problems.append(f"retention.bytes is {size}, must be -1, or a busy day deletes records before their time")
    kept = int(config.get("retention.ms", "0"))
    needs = _own_needs(topic, settings)
    if topic in _OUTLIVE_REQUESTS and (requests := configs.get(SEND_REQUESTS.name)) is not None:
        needs.append((int(requests.get("retention.ms", "0")), f"requests outlive it on {SEND_REQUESTS.name}"))
    for need, consequence in needs:
        if not _is_enough(kept, need):
            problems.append(f"retention.ms is {_days(kept)}, must be at least {_days(need)}, or {consequence}")
            break
    return problems


def _own_needs(topic: Topic, settings: Settings) -> list[Need]:
    needs = [(topic.retention_ms, topic.loss)]
    if topic is MESSAGE_CONTENTS:
        schedule_ms = int(sum(settings.dispatch_schedule) * 1000)
        needs.append((schedule_ms, "the last attempts of MAILFOLD_DISPATCH_SCHEDULE find no content and fail"))
    if topic in (SEND_REQUESTS, PROVIDER_ACKS):
        identity_ms = int(settings.idempotency_days * DAY_MS)
        needs.append((identity_ms, "a rebuilt database forgets identities before MAILFOLD_IDEMPOTENCY_DAYS"))
    return needs


def _is_enough(kept_ms: int, need_ms: int) -> bool:
    return kept_ms == UNLIMITED or (need_ms != UNLIMITED and kept_ms >= need_ms)


def _days(milliseconds: int) -> str:
    if milliseconds == UNLIMITED:
        return "-1 (unlimited)"
    return f"{milliseconds} ({milliseconds / DAY_MS:.4g} days)"
