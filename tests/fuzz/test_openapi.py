"""Requests generated from the OpenAPI document, valid and invalid: no 500, no timeout, documented answers."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.dialects import SURFACES, is_problem
from tests.support.served import Served

DIALECTS = {
    "fasttrack": "/channels/",
    "email_v1": "/v1/",
    "freshmail": "/v3/",
    "extrahorizon": "/mail/v1/",
    "suppressions": "/suppressions",
    "tracking": ("/o/", "/c/", "/t/", "/u/"),
}
ERRORS = {surface.name: surface.is_error for surface in SURFACES}
ERRORS["suppressions"] = ERRORS["tracking"] = is_problem
CHECKS: Any = (status_code_conformance, content_type_conformance, response_schema_conformance)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.timeout(3600)
def test_generated_requests_are_answered_as_documented(gateway: Served, cases: int, dialect: str) -> None:
    schema = schemathesis.openapi.from_url(f"{gateway.url}/openapi.json")
    all_operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]  # an Err is a failed test
    operations = [operation for operation in all_operations if operation.path.startswith(DIALECTS[dialect])]
    assert operations
    strategies = [
        operation.as_strategy(generation_mode=mode)
        for operation in operations
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    ]

    @hypothesis(
        max_examples=cases,
        deadline=20_000,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        database=None,
    )
    @given(st.one_of(*strategies))
    def check_answer(case: Any) -> None:
        answer = case.call(base_url=gateway.url, headers={"X-Api-Key": gateway.key}, timeout=20)
        assert answer.status_code < 500, answer.text
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400 and "text/html" not in str(answer.headers["content-type"]):
            assert ERRORS[dialect](answer.json()), answer.text

    check_answer()
    assert gateway.quiet(), gateway.log.read_text()[-3000:]
