"""Weighted rendezvous hashing of emails over providers, and when an email is bound to one or may fail over."""

import math
import uuid
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.admin import Brand
from pipeline.dispatch.routing.rendezvous import Route, ranked_providers
from pipeline.dispatch.routing.router import bound_provider, permits_failover, provider_health
from pipeline.dispatch.routing.routes import BrandRouting
from pipeline.dispatch.transports.base import SendOutcome, SendResult
from pipeline.jobs.job import EndpointHealth, Job
from topics.record import EmailId

EMAILS = [EmailId(str(uuid.UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128))) for number in range(4000)]
NAMES = ["ses", "sendgrid", "postmark", "smtp-1", "smtp-2"]

routes = st.dictionaries(st.sampled_from(NAMES), st.floats(0.01, 100), min_size=1).map(
    lambda weights: [Route(name, weight) for name, weight in weights.items()]
)
email_ids = st.uuids().map(lambda value: EmailId(str(value)))


def first(email_id: EmailId, given_routes: list[Route]) -> str:
    return ranked_providers(email_id, given_routes)[0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=4))
def test_shares_follow_the_weights(weights: list[float]) -> None:
    brand_routes = [Route(name, weight) for name, weight in zip(NAMES, weights, strict=False)]
    counted = Counter(first(email_id, brand_routes) for email_id in EMAILS)
    for route in brand_routes:
        share = route.weight / sum(weights)
        # Five standard deviations: once in two million.
        tolerance = 5 * math.sqrt(share * (1 - share) / len(EMAILS))
        assert abs(counted[route.provider] / len(EMAILS) - share) < tolerance


@given(email_ids, routes, st.randoms(use_true_random=False))
def test_ranking_does_not_depend_on_order_of_routes(email_id: EmailId, brand_routes: list[Route], dice: Any) -> None:
    shuffled = list(brand_routes)
    dice.shuffle(shuffled)
    assert ranked_providers(email_id, brand_routes) == ranked_providers(email_id, shuffled)
    assert sorted(ranked_providers(email_id, brand_routes)) == sorted(route.provider for route in brand_routes)


@given(email_ids, routes.filter(lambda brand_routes: len(brand_routes) > 1), st.data())
def test_removing_provider_keeps_order_of_the_others(
    email_id: EmailId, brand_routes: list[Route], data: st.DataObject
) -> None:
    removed = data.draw(st.sampled_from(brand_routes))
    left = [route for route in brand_routes if route != removed]
    before = ranked_providers(email_id, brand_routes)
    assert ranked_providers(email_id, left) == [name for name in before if name != removed.provider]


@given(email_ids, routes, st.data())
def test_heavier_weight_moves_emails_only_to_that_provider(
    email_id: EmailId, brand_routes: list[Route], data: st.DataObject
) -> None:
    grown = data.draw(st.sampled_from(brand_routes))
    heavier = [Route(r.provider, r.weight * 2) if r == grown else r for r in brand_routes]
    before, after = first(email_id, brand_routes), first(email_id, heavier)
    assert after in (before, grown.provider)


def test_scaling_all_weights_changes_nothing() -> None:
    brand_routes, scaled = [Route("a", 1), Route("b", 3)], [Route("a", 25), Route("b", 75)]
    assert all(first(email_id, brand_routes) == first(email_id, scaled) for email_id in EMAILS)


# ------------------------------------------------------------------------------ bound provider and failover
ONE = BrandRouting(Brand("acme", "7", "ses"))
TWO = BrandRouting(Brand("acme", "7", "ses"), (Route("smtp-1", 1), Route("smtp-2", 1)))


def job(*, route: str = "", unknown: bool = False) -> Job:
    stream = str(uuid.uuid4())
    return Job("dispatch", stream, 0, "send", "acme/7", 2, 2, unknown, str(uuid.uuid4()), b"", route)


def test_brand_with_one_provider_is_bound_to_it() -> None:
    assert bound_provider(job(), ONE) == "ses"
    assert bound_provider(job(), BrandRouting(ONE.brand, (Route("smtp-1", 1),))) == "smtp-1"
    assert bound_provider(job(), TWO) is None


def test_stored_choice_binds_whatever_the_routes_are() -> None:
    for routing in (ONE, TWO):
        assert bound_provider(job(route="smtp-9"), routing) == "smtp-9"
        assert bound_provider(job(route="smtp-9", unknown=True), routing) == "smtp-9"


def test_unknown_job_without_choice_is_bound_to_provider_of_brand() -> None:
    assert bound_provider(job(unknown=True), TWO) == "ses"


def test_failover_needs_unhealthy_provider_and_certain_refusal() -> None:
    permitted = {
        (outcome, health)
        for outcome in SendOutcome
        for health in EndpointHealth
        if permits_failover(SendResult(outcome, 0, "", health))
    }
    assert permitted == {
        (SendOutcome.LATER, EndpointHealth.FAILING),
        (SendOutcome.LATER, EndpointHealth.BROKEN),
        (SendOutcome.MISCONFIGURED, EndpointHealth.FAILING),
        (SendOutcome.MISCONFIGURED, EndpointHealth.BROKEN),
    }


def test_configuration_fault_of_one_email_does_not_affect_provider_health() -> None:
    one_email_fault = SendResult(
        SendOutcome.MISCONFIGURED, 550, "From address not verified", EndpointHealth.BROKEN, concerns_one_email=True
    )
    assert permits_failover(one_email_fault)
    assert provider_health(one_email_fault) is EndpointHealth.SILENT
    assert provider_health(replace(one_email_fault, concerns_one_email=False)) is EndpointHealth.BROKEN
    assert (
        provider_health(SendResult(SendOutcome.LATER, 421, "", EndpointHealth.FAILING, concerns_one_email=True))
        is EndpointHealth.FAILING
    )
    assert (
        provider_health(SendResult(SendOutcome.REJECTED, 550, "", EndpointHealth.HEALTHY, concerns_one_email=True))
        is EndpointHealth.HEALTHY
    )
