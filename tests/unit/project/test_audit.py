"""What became of an email, by what Postgres knows of it and how far the roles have come."""

from dataclasses import dataclass

import pytest

from pipeline.project.audit import SETTLING_MS, AuditedEmail, AuditProgress, fate_of
from pipeline.runtime.kafka.partitioner import partition_of_key

EMAIL_ID = "0190163d-8694-739b-aea5-966c26f8ad91"
OWN = partition_of_key(EMAIL_ID.encode(), 2)
T0 = 1_700_000_000_000
LATER = T0 + SETTLING_MS + 1


def progress(folded_to: int = LATER, dispatched_to: int = 0) -> AuditProgress:
    return AuditProgress({OWN: folded_to, 1 - OWN: 0}, {3: dispatched_to})


@dataclass(frozen=True)
class Case:
    fate: str
    has_request: bool = True
    is_listed: bool = False
    status: str = "accepted"
    job: str = ""
    progress: AuditProgress = progress()  # noqa: RUF009 - immutable
    places: tuple[str, ...] = ("send-requests/3/17",)


CASES = {
    "reserved and never accepted": Case("", has_request=False, status=""),
    "waits for its provider": Case("in_flight", job="pending"),
    "deferred": Case("in_flight", status="deferred", job="pending"),
    "needs a decision": Case("in_flight", job="unknown"),
    "gave up": Case("dead", is_listed=True, status="failed", job="dead"),
    "sent": Case("settled", is_listed=True, status="sent", job="done"),
    "refused": Case("settled", is_listed=True, status="bounced", job="done"),
    "sent, and the log says so although its job is gone": Case("settled", is_listed=True, status="delivered"),
    "suppressed": Case("dropped", is_listed=True, status="dropped", job="done"),
    "its request is not dispatched yet": Case("in_flight", progress=progress(dispatched_to=17)),
    "its request was read and made no job": Case("unaccounted", progress=progress(dispatched_to=18)),
    "one of its requests was read and made no job": Case(
        "unaccounted", progress=progress(dispatched_to=18), places=("send-requests/3/90", "send-requests/3/17")
    ),
    "nobody knows where its request is": Case("in_flight", progress=progress(dispatched_to=99), places=()),
    "its ack is not folded yet": Case("in_flight", job="done", progress=progress(T0 + SETTLING_MS)),
    "its ack was folded past": Case("unaccounted", job="done"),
    "its request is not folded yet": Case("in_flight", has_request=False, job="pending", progress=progress(T0)),
    "its history is gone": Case("unaccounted", has_request=False, job="done", status=""),
    "its history is gone, and it waits": Case("unaccounted", has_request=False, job="pending", status=""),
    "nothing was ever projected": Case("in_flight", has_request=False, job="done", progress=AuditProgress({}, {})),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_email_has_one_fate(case: Case) -> None:
    job_at = T0 if case.job else None
    email = AuditedEmail(EMAIL_ID, case.has_request, case.is_listed, case.status, case.job, job_at, T0)
    assert fate_of(email, case.progress, case.places) == case.fate
