"""The table of metrics, from the gateway's registry."""

import re

from tests.architecture.reference.gateway import offline, openapi
from tests.architecture.reference.markdown import table


def part() -> str:
    openapi()  # makes the routes, which register gauges of their own
    rows = [
        (f"`{name}`", kind, labels, text)
        for name, kind, labels, text in sorted(_described(collector) for collector in _collectors())
    ]
    return table(("metric", "kind", "labels", "meaning"), rows)


def _collectors() -> list[object]:
    registry = offline().metrics.registry
    return [collector for collector in registry._collector_to_names if hasattr(collector, "_labelnames")]


def _described(collector: object) -> tuple[str, str, str, str]:
    name, kind = str(getattr(collector, "_name")), str(getattr(collector, "_type"))  # noqa: B009
    labels = ", ".join(f"`{label}`" for label in getattr(collector, "_labelnames"))  # noqa: B009
    shown = f"{name}_total" if kind == "counter" else name
    return shown, kind, labels, re.sub(r"\s+", " ", str(getattr(collector, "_documentation")))  # noqa: B009
