"""Spans, and the queue before a collector that is slow, away or broken."""

import threading
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pipeline.errors import InvalidSettings
from pipeline.runtime.observing import otlp_tracer, tracing
from pipeline.runtime.observing.otlp_tracer import open_otlp_tracer
from pipeline.runtime.observing.role_health import RoleHealth
from pipeline.runtime.observing.role_tracing import open_tracing
from pipeline.runtime.observing.tracing import NO_TRACER, Tracer, current_span, email_attributes, record_headers
from pipeline.settings import Settings
from tests.support.otlp import Collector, otlp_collector

SETTINGS = Settings(tracing=True, trace_queue_spans=20, trace_export_delay_ms=10)
CAUSE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with otlp_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


class Counted(Counter[str]):
    """Spans by result, counted from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __call__(self, result: str, spans: int) -> None:
        with self.lock:
            self[result] += spans


def end_spans(tracer: Tracer, number: int) -> None:
    for _ in range(number):
        with tracer.request_span("request", {}):
            pass


def test_spans_reach_the_collector_with_their_role(collector: Collector) -> None:
    counted = Counted()
    with open_otlp_tracer(SETTINGS, "emit", counted) as tracer, tracer.request_span("request", {"a": 1}):
        pass
    [span] = collector.spans
    assert (span.service, span.name, span.attributes, span.causes) == (
        "mailfold-emit",
        "request",
        {"a": 1},
        frozenset(),
    )
    assert counted == {"exported": 1}


def test_service_name_of_the_environment_wins(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mail")
    with open_otlp_tracer(SETTINGS, "emit", Counted()) as tracer:
        end_spans(tracer, 1)
    assert [span.service for span in collector.spans] == ["mail"]


def test_collector_that_never_answers_stops_nobody_and_drops_are_counted(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp_tracer, "CLOSE_TIMEOUT_S", 0.1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3600")
    collector.answers.clear()
    counted = Counted()
    with open_otlp_tracer(SETTINGS, "emit", counted) as tracer:
        end_spans(tracer, 500)
        assert counted["dropped"] >= 500 - 2 * 20, "one queue is in flight, one waits"
    # Closed although the collector has not answered; what waited is dropped, too.
    assert not collector.answers.is_set()
    assert (counted["exported"], collector.spans) == (0, [])


def test_collector_that_is_away_costs_spans_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    counted = Counted()
    with open_otlp_tracer(SETTINGS, "emit", counted) as tracer:
        end_spans(tracer, 5)
    assert counted["failed"] + counted["dropped"] == 5


def test_caller_that_does_not_sample_is_not_traced(collector: Collector) -> None:
    with (
        open_otlp_tracer(SETTINGS, "emit", Counted()) as tracer,
        tracer.request_span("r", {}, f"{CAUSE[:-1]}0") as span,
    ):
        assert (span.traceparent, record_headers(span.traceparent)) == ("", [])
    assert collector.spans == []


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "rubbish",
        CAUSE.upper(),
        CAUSE.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"{CAUSE[:36]}{'0' * 16}-01",
        "é" + CAUSE,
    ],
)
def test_invalid_context_of_a_caller_begins_a_new_trace(collector: Collector, sent: str) -> None:
    with open_otlp_tracer(SETTINGS, "emit", Counted()) as tracer, tracer.request_span("request", {}, sent):
        pass
    [span] = collector.spans
    assert span.causes == frozenset()


def test_span_of_a_batch_has_its_first_cause_as_parent_and_links_to_the_others(collector: Collector) -> None:
    other = CAUSE.replace("00f067aa0ba902b7", "00f067aa0ba902b8")
    with open_otlp_tracer(SETTINGS, "emit", Counted()) as tracer:
        with tracer.span("batch", "consumer", [CAUSE, other, CAUSE], {}):
            pass
        with tracer.span("none of them is traced", "consumer", [], {}) as nothing:
            assert nothing.traceparent == ""
    [span] = collector.spans
    assert span.trace_id in CAUSE
    assert span.causes == {"00f067aa0ba902b7", "00f067aa0ba902b8"}


def test_span_is_current_in_its_block_and_ends_with_an_error_that_names_its_type(collector: Collector) -> None:
    def fail(tracer: Tracer) -> None:
        with tracer.request_span("request", {}) as span:
            assert current_span() is span
            raise ValueError("anna@example.com")

    with open_otlp_tracer(SETTINGS, "emit", Counted()) as tracer, pytest.raises(ValueError, match="anna"):
        fail(tracer)
    assert current_span() is tracing.NO_SPAN
    [body] = collector.bodies
    assert b"ValueError" in body
    assert b"anna" not in body


def test_traced_records_are_those_with_a_context(collector: Collector) -> None:
    records = [
        SimpleNamespace(key=b"a", headers=[("traceparent", CAUSE.encode())]),
        SimpleNamespace(key=b"b", headers=()),
        SimpleNamespace(key=None, headers=[("other", b"x"), ("traceparent", None)]),
    ]
    with open_otlp_tracer(SETTINGS, "emit", Counted()) as tracer:
        assert tracer.traced_keys(records) == [(b"a", CAUSE)]
    assert NO_TRACER.traced_keys(records) == []


def test_attribute_holds_the_first_hundred_ids() -> None:
    attributes = email_attributes([str(number) for number in range(1000)])
    assert (attributes["mailfold.emails"], len(attributes["mailfold.email_ids"])) == (1000, 100)  # type: ignore[arg-type]


def test_results_are_counted_in_the_metrics_that_the_role_has_by_then(collector: Collector) -> None:
    health = RoleHealth("emit")
    with open_tracing(SETTINGS, health) as tracer:
        later = type(health.metrics)()
        health.use_metrics(later)
        end_spans(tracer, 3)
    assert later.registry.get_sample_value("mailfold_trace_spans_total", {"result": "exported"}) == 3


def test_missing_package_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pipeline.runtime.observing.otlp_tracer", None)
    with (
        pytest.raises(
            InvalidSettings, match=r"MAILFOLD_TRACING: .* is not installed; `pip install 'mailfold\[tracing\]'`"
        ),
        open_tracing(SETTINGS, RoleHealth("emit")),
    ):
        pass
