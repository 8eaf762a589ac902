"""One email is one connected graph of spans, from the HTTP request to the conversion; off, nothing of it is there."""

import subprocess
import sys
import uuid
from typing import Any

import pytest

from pipeline import admin
from pipeline.admin import Brand, Destination, Provider
from pipeline.devstack.supervisor import Stack
from pipeline.runtime.bootstrap import open_runtime
from pipeline.runtime.kafka.clients import create_consumer
from pipeline.runtime.kafka.log import append_all, topic_partition
from pipeline.settings import Settings
from tests.conftest import RING
from tests.integration.test_correlation import acked, fresh, uncorrelated
from tests.support.fasttrack import activity, message
from tests.support.gateway import gateway
from tests.support.http_receiver import http_receiver
from tests.support.otlp import Collector, ReceivedSpan, otlp_collector
from tests.support.seeing import on, rows, until
from tests.support.smtp_receiver import smtp_receiver
from topics.registry import (
    CONVERSION_RESULTS,
    DELIVERY_EVENTS,
    EMAIL_CHANGES,
    EMAIL_STATES,
    FACT_TOPICS,
    SEND_REQUESTS,
    Topic,
)

CALLER_TRACE, CALLER_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"
ROLES = ["worker", "dispatch", "project", "emit"]


async def headers_on(settings: Settings, *topics: Topic) -> dict[str, list[tuple[str, bytes]]]:
    """Return the headers of all records, by topic."""
    reader = create_consumer(settings)
    await reader.start()
    try:
        partitions = [topic_partition(topic.name, number, settings) for topic in topics for number in range(2)]
        reader.assign(partitions)
        ends = await reader.end_offsets(partitions)
        await reader.seek_to_beginning(*partitions)
        found: dict[str, list[tuple[str, bytes]]] = {topic.name: [] for topic in topics}
        while any([await reader.position(partition) < ends[partition] for partition in partitions]):
            for partition, records in (await reader.getmany(timeout_ms=200)).items():
                name = partition.topic.removeprefix(settings.topic_prefix)
                found[name] += [header for record in records for header in record.headers]
        return found
    finally:
        await reader.stop()


async def set_up(rt: Any, inbox_port: int, destination: str) -> None:
    provider = Provider("local", "127.0.0.1", inbox_port, tls="off", means_delivered=True)
    await admin.add_provider(rt.pool, provider, RING)
    await admin.add_brand(rt.pool, Brand("acme", "*", "local"))
    await admin.add_destination(rt.pool, Destination("acme", "*", destination, "key"), RING)


def one(spans: list[ReceivedSpan], service: str, name: str) -> ReceivedSpan:
    [found] = [span for span in spans if (span.service, span.name) == (f"mailfold-{service}", name)]
    return found


def conversion_of(collector: Collector) -> ReceivedSpan | None:
    return next((span for span in collector.spans if span.name == "emit delivered"), None)


async def test_email_is_one_connected_graph_from_its_request_to_its_conversion(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with otlp_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        own = settings.model_copy(update={"tracing": True, "trace_export_delay_ms": 50})
        async with http_receiver() as fasttrack, smtp_receiver() as inbox, gateway(own) as served:
            await set_up(served.rt, inbox.port, fasttrack.url)
            async with Stack(own, roles=ROLES):
                traced, untraced = message("anna"), message("bert", email="bert@example.com")
                assert (await served.post([traced], traceparent=CALLER)).status_code == 200
                assert (await served.post([untraced], traceparent=CALLER[:-1] + "0")).status_code == 200
                await until(lambda: len(fasttrack.seen) == 2, patience=60)
                await until(lambda: conversion_of(collector))
        carried = await headers_on(settings, *FACT_TOPICS, EMAIL_CHANGES, EMAIL_STATES)

    request = one(collector.spans, "gateway", "POST batch")
    graph = collector.caused_by(request)
    conversion = one(graph, "emit", "emit delivered")
    assert {span.service for span in graph} == {f"mailfold-{role}" for role in ("gateway", *ROLES)}
    for service, name in (("dispatch", "take in"), ("dispatch", "dispatch send")):
        one(graph, service, name)
    # Continued from the caller, and led on to Fast Track.
    assert (request.trace_id, request.causes, request.kind) == (CALLER_TRACE, frozenset({CALLER_SPAN}), "server")
    posted = {each.body["activity"]["id"]: each.headers.get("traceparent") for each in fasttrack.seen}
    assert posted == {"anna": f"00-{CALLER_TRACE}-{conversion.span_id}-01", "bert": None}
    # Found by its id, and by nothing that a person would mind.
    email_id = conversion.attributes["mailfold.email_id"]
    assert request.attributes["mailfold.email_ids"] == [email_id] == [str(uuid.UUID(email_id))]
    assert all(span.attributes.get("mailfold.email_ids", [email_id]) == [email_id] for span in collector.spans)
    for private in (b"anna", b"bert", b"example.com", b"Welcome", b"987654"):
        assert not any(private in body for body in collector.bodies)
    # The email that its caller does not trace leaves no span and carries no header.
    assert [span for span in collector.spans if span not in graph] == []
    assert len(carried[SEND_REQUESTS.name]) == len(carried[CONVERSION_RESULTS.name]) == 1
    assert {name for headers in carried.values() for name, _ in headers} == {"traceparent"}
    assert carried[EMAIL_STATES.name] == []


async def test_batch_of_several_requests_is_linked_to_each(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        own = settings.model_copy(update={"tracing": True, "trace_export_delay_ms": 50})
        async with smtp_receiver() as inbox, gateway(own) as served:
            await set_up(served.rt, inbox.port, "http://127.0.0.1:9")
            for name in ("anna", "bert", "carl"):
                assert (await served.post([message(name, activity=activity(id=name))])).status_code == 200
            async with Stack(own, roles=["dispatch"]):
                await until(lambda: len([span for span in collector.spans if span.name == "dispatch send"]) == 3)
    requests = [span for span in collector.spans if span.name == "POST batch"]
    assert len({span.trace_id for span in requests}) == 3
    taken_in = {cause for span in collector.spans if span.name == "take in" for cause in span.causes}
    assert taken_in == {span.span_id for span in requests}


async def test_event_that_names_no_email_keeps_its_trace(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    email_id = fresh()
    with otlp_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        own = settings.model_copy(update={"tracing": True, "trace_export_delay_ms": 50})
        async with open_runtime(own, role="gateway") as rt, Stack(own, roles=["dispatch"]):
            await append_all(rt.log, [acked(email_id, "<known@relay>")])
            await until(lambda: rows(rt, "select 1 from correlation.provider_ids"))
            with rt.tracer.request_span("webhook", {}):
                await append_all(rt.log, [uncorrelated("<known@relay>", "traced")])
            await append_all(rt.log, [uncorrelated("<known@relay>", "untraced")])

            async def appended() -> bool:
                return len(await on(own, DELIVERY_EVENTS)) == 2

            await until(appended)
        [header] = (await headers_on(own, DELIVERY_EVENTS))[DELIVERY_EVENTS.name]
    [correlated] = [span for span in collector.spans if span.name == "correlate"]
    [webhook] = [span for span in collector.spans if span.name == "webhook"]
    assert (correlated.causes, correlated.attributes["mailfold.email_ids"]) == (
        frozenset({webhook.span_id}),
        [email_id],
    )
    assert header == ("traceparent", f"00-{webhook.trace_id}-{correlated.span_id}-01".encode())


async def test_nothing_is_written_while_tracing_is_off(settings: Settings) -> None:
    async with gateway(settings) as served:
        batch = [message(f"m{number}", activity=activity(id=f"m{number}")) for number in range(30)]
        for messages in (batch, batch[:1]):  # in batches of our own, and one by one
            assert (await served.post(messages, traceparent=CALLER)).status_code == 200
    assert await headers_on(settings, SEND_REQUESTS) == {SEND_REQUESTS.name: []}


def test_nothing_of_the_sdk_is_imported_while_tracing_is_off() -> None:
    roles = ", ".join(f"pipeline.{role}.main" for role in ("gateway", "worker", "dispatch", "project", "emit"))
    program = (
        f"import sys, {roles}, pipeline.gateway.server\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', "
        "'google.protobuf', 'pipeline.runtime.observing.otlp_tracer'))])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
