"""The rights of each role on a Kafka cluster, as a table."""

from collections import defaultdict
from collections.abc import Iterator

from pipeline.operations.kafka_rights import KafkaRight, RightsHolder, rights_of
from tests.architecture.reference.markdown import table
from topics.registry import TOPICS


def part() -> str:
    sections = []
    for holder in RightsHolder:
        sections += [f"## `{holder}`\n", table(("resource", "name", "operations"), _rows(rights_of([holder])))]
    return "\n".join(sections)


def _rows(rights: list[KafkaRight]) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each kind of resource and set of operations."""
    operations: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for right in rights:
        operations[right.kind, right.name, right.is_prefix].append(right.operation)
    names: dict[tuple[str, bool, str], list[str]] = defaultdict(list)
    for (kind, name, is_prefix), allowed in operations.items():
        names[kind, is_prefix, ", ".join(allowed)].append(name)
    for (kind, is_prefix, allowed_text), named in names.items():
        yield f"{kind}{', by prefix' if is_prefix else ''}", _named(named), allowed_text


def _named(names: list[str]) -> str:
    if len(names) == len(TOPICS):
        return "every topic"
    return ", ".join(f"`{name}`" for name in names if name)
