"""Open the tracer of a role; imports OpenTelemetry only where the setting `tracing` is on."""

import contextlib
from collections.abc import Iterator

from pipeline.errors import InvalidSettings
from pipeline.runtime.observing.role_health import RoleHealth
from pipeline.runtime.observing.tracing import NO_TRACER, Tracer
from pipeline.settings import Settings


@contextlib.contextmanager
def open_tracing(settings: Settings, health: RoleHealth) -> Iterator[Tracer]:
    """Yield the tracer of a role, and export what is left at the end, within two seconds.

    Raises InvalidSettings where tracing is on and OpenTelemetry is not installed.
    """
    if not settings.tracing:
        yield NO_TRACER
        return
    try:
        from pipeline.runtime.observing.otlp_tracer import open_otlp_tracer  # noqa: PLC0415  an extra that may not be installed
    except ImportError as error:
        raise InvalidSettings(
            f"MAILFOLD_TRACING: {error.name or 'OpenTelemetry'} is not installed; `pip install 'mailfold[tracing]'`"
        ) from error

    def count(result: str, spans: int) -> None:
        # Not an attribute: the role replaces the metrics by its own while it starts.
        health.metrics.trace_spans.labels(result).inc(spans)

    with open_otlp_tracer(settings, health.role, count) as tracer:
        yield tracer
