"""List the checks of `mailfold doctor` by the areas that its report names, in the report's order."""

from typing import Final

from pipeline.operations.doctor.finding import DoctorCheck
from pipeline.operations.doctor.host import check_host
from pipeline.operations.doctor.kafka import check_kafka
from pipeline.operations.doctor.log import check_log
from pipeline.operations.doctor.postgres import check_postgres
from pipeline.operations.doctor.roles import check_roles
from pipeline.operations.doctor.setup import check_setup

CHECKS: Final[dict[str, DoctorCheck]] = {
    "host": check_host,
    "kafka": check_kafka,
    "postgres": check_postgres,
    "log": check_log,
    "setup": check_setup,
    "roles": check_roles,
}
