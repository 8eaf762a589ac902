"""The table of metrics, from the registries of all roles."""

import re
from collections.abc import Iterator
from functools import cache

from pipeline.dispatch.metrics import DispatchMetrics
from pipeline.emit.metrics import EmitMetrics
from pipeline.project.metrics import ProjectMetrics
from pipeline.runtime.observing.role_metrics import RoleMetrics
from pipeline.worker.metrics import WorkerMetrics
from tests.architecture.reference.gateway import offline, openapi
from tests.architecture.reference.markdown import table

Described = tuple[str, str, str, str]
"""A metric's name, kind, labels and meaning."""


@cache
def roles_of_metrics() -> dict[Described, tuple[str, ...]]:
    """Return every metric with the roles that have it."""
    openapi()  # makes the routes, which register gauges of their own
    registries: dict[str, RoleMetrics] = {
        "gateway": offline().metrics,
        "worker": WorkerMetrics(),
        "dispatch": DispatchMetrics("dispatch"),
        "project": ProjectMetrics(),
        "emit": EmitMetrics("emit"),
    }
    roles: dict[Described, tuple[str, ...]] = {}
    for role, metrics in registries.items():
        for described in _described(metrics):
            roles[described] = (*roles.get(described, ()), role)
    return dict(sorted(roles.items()))


def part() -> str:
    rows = [
        (f"`{name}`", kind, labels, "all" if len(roles) == 5 else ", ".join(roles), text)
        for (name, kind, labels, text), roles in roles_of_metrics().items()
    ]
    return table(("metric", "kind", "labels", "roles", "meaning"), rows)


def _described(metrics: RoleMetrics) -> Iterator[Described]:
    for collector in metrics.registry._collector_to_names:
        if hasattr(collector, "_labelnames"):
            name, kind = str(getattr(collector, "_name")), str(getattr(collector, "_type"))  # noqa: B009
            labels = ", ".join(f"`{label}`" for label in getattr(collector, "_labelnames"))  # noqa: B009
            shown = f"{name}_total" if kind == "counter" else name
            yield shown, kind, labels, re.sub(r"\s+", " ", str(getattr(collector, "_documentation")))  # noqa: B009
