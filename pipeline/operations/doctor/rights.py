"""Check whether the Kafka user of these settings has the rights that the roles need."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from pipeline.errors import InvalidSettings, LogUnavailable
from pipeline.operations.doctor.finding import DoctorFinding, fail, ok, skip, warn
from pipeline.operations.granted_kafka_rights import RightsUntold, find_missing_rights
from pipeline.operations.kafka_rights import KafkaRight, RightsHolder, rights_of
from pipeline.settings import Settings

MAX_RIGHTS: Final = 3


async def check_rights(settings: Settings, *, roles: Sequence[RightsHolder] = ()) -> AsyncIterator[DoctorFinding]:
    """Yield which roles the user may have, and what it lacks for others; without ``roles``, for all but setup."""
    needed = {
        role: rights_of([role]) for role in roles or [role for role in RightsHolder if role is not RightsHolder.SETUP]
    }
    try:
        if not settings.kafka_bootstrap:
            raise InvalidSettings
        missing = await find_missing_rights(settings, {right for rights in needed.values() for right in rights})
    except RightsUntold as error:
        yield skip(str(error))
        return
    except (LogUnavailable, InvalidSettings):  # the check of Kafka says why
        yield skip("not checked without Kafka")
        return
    for finding in judge_rights(needed, missing, are_all_needed=bool(roles)):
        yield finding


def judge_rights(
    needed: dict[RightsHolder, list[KafkaRight]], missing: set[KafkaRight], *, are_all_needed: bool
) -> list[DoctorFinding]:
    """Return a line for the roles that lack nothing, and one for each other.

    Where not all are needed, each role may have a user of its own, so that the user of one role lacks others' rights.
    """
    complete = [role for role, rights in needed.items() if not missing & set(rights)]
    findings = [ok(f"this user has the rights of {', '.join(complete)}")] if complete else []
    judge = warn if complete and not are_all_needed else fail
    for role, rights in needed.items():
        if lacking := [f"{each.operation} on {each.kind} {each.name}" for each in rights if each in missing]:
            more = f" and {len(lacking) - MAX_RIGHTS} more" if len(lacking) > MAX_RIGHTS else ""
            findings.append(
                judge(
                    f"this user lacks rights of {role}: {', '.join(lacking[:MAX_RIGHTS])}{more}",
                    f"`mailfold topics acls --role {role} --principal User:…` prints the commands that give them; "
                    "if the user is another role's, name that with --role",
                )
            )
    return findings
