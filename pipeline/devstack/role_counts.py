"""Decide how many processes of each role run on one machine, and name them; `mailfold up` starts them. Pure."""

from collections.abc import Mapping
from typing import Final

ROLES: Final = ("gateway", "worker", "dispatch", "project", "emit", "sandbox")
"""The roles in the order in which an email passes them; `sandbox` stands in for the provider."""
CORES_PER_PROCESS: Final = {"worker": 6, "dispatch": 4, "project": 8, "emit": 8}
"""Cores of a machine for each process of the roles that may have several.

With servers and sandbox, an email costs 9 ms of CPU time: 1.5 in dispatch, 1 in the worker, 0.8 and 0.6 in project and
emit (docs/explanation/benchmarks.md). So a process keeps its core four fifths busy when all others are.
"""


def default_counts(cores: int, partitions: int) -> dict[str, int]:
    """Return the number of processes of each role that may have several, for a machine with this many cores."""
    counts = {role: max(1, cores // per_process) for role, per_process in CORES_PER_PROCESS.items()}
    return {role: min(count, partitions) for role, count in counts.items()}


def process_names(counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names of all processes, such as `worker` and `worker-2`; a role without a count has one."""
    return tuple(
        role if number == 1 else f"{role}-{number}" for role in ROLES for number in range(1, counts.get(role, 1) + 1)
    )


def role_of(name: str) -> str:
    """Return the role of a process's name."""
    return name.partition("-")[0]
