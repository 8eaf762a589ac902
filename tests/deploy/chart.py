"""Render the Helm chart and validate what comes out; run by the interpreter of `.venv/release`, without a cluster.

Standard input: JSON with the values and the Kubernetes versions to validate against. Standard output: JSON with the
rendered objects, the problems that Kubernetes's schemas find in them, and the error of a chart that can't be rendered.
"""

import json
import sys
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "mailfold"
WARNING = 2
"""The severity in Helm's reports from which on something is wrong."""
WITHOUT_SCHEMA = frozenset({"ServiceMonitor"})
"""Kinds of custom resources, which the schemas of Kubernetes don't know."""


def main() -> None:
    request = json.load(sys.stdin)
    try:
        with helm_python.Chart.load(str(CHART)) as chart:
            chart.validate_schema(chart.merge_values(request["values"]))
            texts = chart.render(request["values"], name="mailfold", namespace="mail")
    except helm_python.HelmError as error:
        json.dump({"objects": [], "problems": [], "error": str(error)}, sys.stdout)
        return
    objects = [
        found
        for name, text in sorted(texts.items())
        if not name.endswith("NOTES.txt")
        for found in yaml.safe_load_all(text)
        if found
    ]
    problems = [problem for version in request["kubernetes"] for each in objects for problem in validate(each, version)]
    report = helm_python.lint(str(CHART), request["values"], strict=True, namespace="mail")
    problems += [message["error"] for message in report["messages"] if message["severity"] >= WARNING]
    json.dump({"objects": objects, "problems": problems, "error": ""}, sys.stdout)


def validate(manifest: dict[str, Any], version: str) -> list[str]:
    if manifest["kind"] in WITHOUT_SCHEMA:
        return []
    try:
        kubernetes_validate.validate(manifest, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{version} {manifest['kind']} {manifest['metadata']['name']}: {error.message}"]
    return []


if __name__ == "__main__":
    main()
