"""Check each provider's page against its adapter and the commands."""

import importlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline import admin
from pipeline.cli.main import command
from pipeline.webhooks.providers.registry import ADAPTERS
from tests.architecture.repository import section, text
from topics.events import EventKind

KINDS = sorted(set(ADAPTERS) - {"sandbox", "mail"})
PAGES = pytest.mark.parametrize("kind", KINDS)


def page(kind: str) -> str:
    return text(f"docs/how-to/providers/{kind}.md")


@PAGES
def test_page_connects_provider_in_five_steps(kind: str) -> None:
    steps = section(page(kind), "Connect it in five steps")
    assert re.findall(r"^(\d)\. ", steps, re.MULTILINE) == list("12345")
    assert f"your.host/webhooks/{kind}" in steps
    assert f"mailfold providers add {kind} --kind {kind}" in steps
    assert f"mailfold providers check {kind}" in steps
    assert kind in admin.PROVIDER_KINDS


@PAGES
def test_commands_on_page_are_valid(kind: str) -> None:
    providers: Any = command().commands["providers"]
    page_text = page(kind).replace("\\\n", " ")
    commands = re.findall(r"(?:`|^ +)mailfold providers ([^`\n]+)", page_text, re.MULTILINE)
    assert {one.split()[0] for one in commands} >= {"add", "check"}
    for one in commands:
        name, *arguments = shlex.split(one)
        providers.commands[name].make_context(name, arguments)


@PAGES
def test_page_lists_events_limits_and_known_problems(kind: str) -> None:
    assert section(page(kind), "What it does not report").strip()
    assert section(page(kind), "Known problems").strip()
    page_text = [line for line in section(page(kind), "Events").splitlines() if line.startswith("| `")]
    assert page_text
    event_names = {line.split("|")[2].strip().partition(",")[0].partition(" ")[0] for line in page_text}
    assert event_names <= {kind.value for kind in EventKind}, "words of ours"


@PAGES
def test_page_lists_every_event_of_the_mapping(kind: str) -> None:
    mapping: Mapping[str, object] = getattr(importlib.import_module(f"pipeline.webhooks.providers.{kind}"), "KINDS", {})
    rows = [line for line in section(page(kind), "Events").splitlines() if line.startswith("| `")]
    for native, ours in mapping.items():
        about = [row for row in rows if f"`{native}`" in row.split("|")[1]]
        assert about, native
        if isinstance(ours, EventKind):
            assert any(re.search(rf"\b{ours.value}\b", row.split("|")[2]) for row in about), native
