"""How many processes `mailfold up` starts."""

import pytest

from pipeline.devstack.role_counts import CORES_PER_PROCESS, ROLES, default_counts, process_names, role_of


@pytest.mark.parametrize(
    ("cores", "expected"),
    [(1, (1, 1, 1, 1)), (2, (1, 1, 1, 1)), (8, (1, 2, 1, 1)), (16, (2, 4, 2, 2)), (128, (8, 8, 8, 8))],
)
def test_counts_follow_from_the_cores_and_stay_within_the_partitions(
    cores: int, expected: tuple[int, int, int, int]
) -> None:
    assert tuple(default_counts(cores, partitions=8).values()) == expected


def test_second_processes_have_a_number() -> None:
    names = process_names({"worker": 2, "dispatch": 3})
    assert " ".join(names) == "gateway worker worker-2 dispatch dispatch-2 dispatch-3 project emit sandbox"
    assert {role_of(name) for name in names} == set(ROLES)


def test_roles_that_may_have_several_processes_are_roles() -> None:
    assert CORES_PER_PROCESS.keys() < set(ROLES)
    assert process_names(dict.fromkeys(ROLES, 1)) == ROLES
