"""Limits of the questions and long polls that a tenant has at once."""

import contextlib

import pytest

from pipeline.gateway.problems import HttpProblem
from pipeline.gateway.tenant_questions import MAX_LONG_POLLS, QUESTIONS_AT_ONCE, TenantQuestions


async def test_tenant_with_all_its_turns_is_refused_and_others_are_not() -> None:
    questions = TenantQuestions()
    async with contextlib.AsyncExitStack() as held:
        for _ in range(QUESTIONS_AT_ONCE):
            await held.enter_async_context(questions.turn("acme"))
        with pytest.raises(HttpProblem) as refused:
            await held.enter_async_context(questions.turn("acme", 0))
        assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
        await held.enter_async_context(questions.turn("other", 0))
    async with questions.turn("acme"):
        pass


def test_tenant_has_a_limited_number_of_long_polls() -> None:
    questions = TenantQuestions()
    with contextlib.ExitStack() as held:
        for _ in range(MAX_LONG_POLLS):
            held.enter_context(questions.long_poll("acme"))
        with pytest.raises(HttpProblem, match="wait for changes") as refused:
            held.enter_context(questions.long_poll("acme"))
        assert refused.value.status == 429
        held.enter_context(questions.long_poll("other"))
    with questions.long_poll("acme"):
        pass
