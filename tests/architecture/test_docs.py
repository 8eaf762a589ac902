"""Check the documentation against the code."""

import ast
import importlib
import re
import typing
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from pipeline.admin import PROVIDER_KINDS
from pipeline.cli.main import COMMAND_PANELS, command
from pipeline.cli.settings import settings_page
from pipeline.devstack.role_counts import ROLES
from pipeline.operations.kafka_rights import READ_TOPICS, WRITTEN_TOPICS, RightsHolder
from pipeline.settings import Settings
from tests.architecture.reference.gateway import openapi
from tests.architecture.reference.http import TAGS
from tests.architecture.reference.pages import PAGES, wanted
from tests.architecture.reference.records import tag_of
from tests.architecture.repository import ROOT, modules, project, section, table, text
from topics.registry import TOPICS, Topic


@pytest.mark.parametrize("name", PAGES)
def test_generated_reference_is_what_the_code_says(name: str) -> None:
    assert text(name) == wanted(name), "run: make reference"


def test_every_endpoint_stands_in_one_reference_page() -> None:
    tags = [tag for ops in openapi()["paths"].values() for operation in ops.values() for tag in operation["tags"]]
    assert set(tags) == set(TAGS.values())


def test_every_endpoint_that_needs_a_key_says_so() -> None:
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in openapi()["paths"].items()
        for method, operation in methods.items()
    }
    keyless = {name for name, operation in operations.items() if not operation.get("security")}
    assert keyless == {
        *("POST /webhooks/{provider}", "GET /webhooks/{provider}"),  # signed, or a page for people
        *("GET /o/{token}.gif", "GET /c/{token}", "GET /t/{token}", "GET /u/{token}", "POST /u/{token}"),  # signed
        *("GET /mail/v1/{tracking_hash}/open", "POST /auth/v2/oauth2/tokens"),  # signed; has the key in its body
        *("GET /healthz", "GET /readyz", "GET /metrics", "GET /mail/v1/health"),
    }
    assert [name for name in operations.keys() - keyless if "401" not in operations[name]["responses"]] == []


def test_every_reason_of_a_dead_letter_is_explained() -> None:
    explained = {row[0] for row in table(section(text("docs/reference/errors.md"), "Reasons of dead letters"))}
    assert explained == _reasons() | {"unrecognised", "unproven", "uncorrelated", "skipped"}


def test_role_diagrams_cover_every_role_and_topic() -> None:
    page = text("docs/explanation/architecture.md")
    diagrams = dict(re.findall(r"^## (\w+)\n.*?```mermaid\n(.*?)```", page, re.MULTILINE | re.DOTALL))
    assert {role for role in ROLES if role != "sandbox"} <= diagrams.keys()
    shown = set(re.findall(r"[\w-]+", " ".join(diagrams.values())))
    assert {topic.name for topic in TOPICS} <= shown


def test_every_bound_log_field_is_documented() -> None:
    documented = {
        row[0] for row in table(section(text("docs/reference/logs.md"), "Fields that say what a line is about"))
    }
    bound = {
        keyword.arg
        for path in modules()
        if path.is_relative_to(ROOT / "pipeline")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "bind_log_fields"
        for keyword in call.keywords
    }
    assert bound == documented


def test_log_events_to_watch_are_logged() -> None:
    events = [row[0] for row in table(section(text("docs/reference/logs.md"), "Events to watch"))]
    source = "".join(path.read_text(encoding="utf-8") for path in modules() if path.is_relative_to(ROOT / "pipeline"))
    assert [event for event in events if f'"{event}"' not in source] == []


def test_limits_page_has_the_values_of_the_code() -> None:
    rows = [row for part in ("Memory", "Connections and heads of requests", "Work") for row in _limit_rows(part)]
    assert len(rows) >= 20
    for _, limit, name, _ in rows:
        value = _limit_value(re.match(r"[\w./]+", name)[0])  # type: ignore[index]
        assert value is None or limit.startswith(f"{value:,}"), name


def _limit_rows(heading: str) -> list[list[str]]:
    return table(section(text("docs/reference/limits.md"), heading))


def _limit_value(name: str) -> int | None:
    """Return the number behind the name of a setting or constant; None for the path of a file."""
    if name.startswith("MAILFOLD_"):
        value = Settings.model_fields[name.removeprefix("MAILFOLD_").lower()].default
        return int(value)
    if name.startswith("pipeline."):
        module, _, constant = name.rpartition(".")
        return int(getattr(importlib.import_module(module), constant))
    assert (ROOT / name).exists()
    return None


def test_every_setting_has_a_meaning() -> None:
    for name, default, meaning in table(settings_page()):
        assert meaning, name
        assert "undefined" not in default.lower()


def test_topic_table_equals_the_registry() -> None:
    rows = [tuple(row[:5]) for row in table(section(text("topics/README.md"), "Topics"))]
    assert rows == [
        (
            topic.name,
            topic.key,
            ", ".join(tag_of(kind) for kind in _records(topic.value)),
            topic.wire,
            topic.retention_text,
        )
        for topic in TOPICS
    ]


def test_writers_and_readers_are_those_that_need_the_rights() -> None:
    assert table(section(text("topics/README.md"), "Writers and readers")) == [
        [topic.name, _roles_with(topic, WRITTEN_TOPICS), _roles_with(topic, READ_TOPICS)] for topic in TOPICS
    ]


def _roles_with(topic: Topic, rights: Mapping[RightsHolder, Collection[Topic]]) -> str:
    roles = [role.value for role, named in rights.items() if topic in named and role is not RightsHolder.COMMANDS]
    return ", ".join(roles) or "nobody"


def test_glossary_explains_each_term_once() -> None:
    words = [row[0] for row in table(section(text("topics/README.md"), "Glossary"))]
    assert len(words) == len(set(words)) >= 20


def test_readme_diagram_shows_every_topic_and_role() -> None:
    shown = set(re.findall(r"[\w-]+", _picture()))
    assert {topic.name for topic in TOPICS} <= shown
    assert set(ROLES) <= shown


def test_readme_diagram_fits_one_screen() -> None:
    assert len(_picture().splitlines()) <= 45


def test_every_topic_in_readme_diagram_is_written_and_read() -> None:
    edges = set(re.findall(r"^ *([\w-]+)\S* -->(?:\|[^|]*\|)? *([\w-]+)", _picture(), re.MULTILINE))
    written = {end for _, end in edges}
    read = {start for start, _ in edges}
    for topic in TOPICS:
        assert topic.name in written, f"nobody writes {topic.name}"
        # The changelog is read at recovery only; dead letters and what operators did are read by people.
        by_people = {"email-states", "dead-letters", "operator-actions"}
        assert topic.name in read or topic.name in by_people, f"nobody reads {topic.name}"


@pytest.mark.parametrize("name", [name for names in COMMAND_PANELS.values() for name in names])
def test_every_command_on_the_help_page_exists_and_is_documented(name: str) -> None:
    assert name in command().commands
    pages = text("README.md") + text("CONTRIBUTING.md")
    assert re.search(rf"`?mailfold {name}\b|`{name}`|make {name}\b", pages), f"README.md says nothing of {name}"


def test_help_page_has_every_command() -> None:
    assert list(command().commands) == [name for names in COMMAND_PANELS.values() for name in names]


def test_every_provider_kind_is_in_the_table_and_has_a_page() -> None:
    rows = [row[0] for row in table(text("docs/how-to/providers/README.md").partition("## What each")[0])]
    linked = dict(re.findall(r"\[(\w+)\]\(([\w./]+)\)", " ".join(rows)))
    assert {*linked, "smtp"} == set(PROVIDER_KINDS)
    assert [page for page in linked.values() if not (ROOT / "docs/how-to/providers" / page).exists()] == []


def test_every_dependency_has_exactly_one_reason() -> None:
    packages = [
        name.strip() for row in table(section(text("docs/decisions.md"), "Dependencies")) for name in row[0].split(",")
    ]
    extras: dict[str, Any] = project()["project"]["optional-dependencies"]
    groups: dict[str, Any] = project()["dependency-groups"]
    optional = [line for lines in (*extras.values(), *groups.values()) for line in lines]
    wanted = [*project()["project"]["dependencies"], *optional]
    assert len(packages) == len(set(packages)), "a package stands there twice"
    assert set(packages) == {re.split(r"[\[<>=~! ]", line)[0] for line in wanted}


def _picture() -> str:
    found = re.search(r"```mermaid\n(.*?)```", text("README.md"), re.DOTALL)
    assert found
    return found[1]


def _records(value: Any) -> tuple[type, ...]:
    return typing.get_args(value) or (value,)


def _reasons() -> set[str]:
    """The literal reasons that the code gives to dead letters."""
    found = set()
    for path in modules():
        if path.is_relative_to(ROOT / "pipeline"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    found |= _reason_in(node)
    return found


def _reason_in(call: ast.Call) -> set[str]:
    is_method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    place = 1 if is_method else 2
    is_source = name == "dead_letter" or (name == "write_failure" and len(call.args) >= 4)
    if not is_source or len(call.args) <= place:
        return set()
    reason = call.args[place]
    return {reason.value} if isinstance(reason, ast.Constant) and isinstance(reason.value, str) else set()
