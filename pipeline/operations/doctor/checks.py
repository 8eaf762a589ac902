"""List the checks of `mailfold doctor` by the areas that its report names, in the report's order."""

import functools
from collections.abc import Sequence

from pipeline.operations.doctor.finding import DoctorCheck
from pipeline.operations.doctor.host import check_host
from pipeline.operations.doctor.kafka import check_kafka
from pipeline.operations.doctor.log import check_log
from pipeline.operations.doctor.mail_dns import check_dns
from pipeline.operations.doctor.postgres import check_postgres
from pipeline.operations.doctor.rights import check_rights
from pipeline.operations.doctor.roles import check_roles
from pipeline.operations.doctor.setup import check_setup
from pipeline.operations.kafka_rights import RightsHolder


def list_checks(roles: Sequence[RightsHolder] = (), domains: Sequence[str] = ()) -> dict[str, DoctorCheck]:
    """Return all checks; ``roles`` are those whose rights are needed, ``domains`` are checked beside brands'."""
    return {
        "host": check_host,
        "dns": functools.partial(check_dns, domains=domains),
        "kafka": check_kafka,
        "rights": functools.partial(check_rights, roles=roles),
        "postgres": check_postgres,
        "log": check_log,
        "setup": check_setup,
        "roles": check_roles,
    }
