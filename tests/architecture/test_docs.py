"""What is written about the house, held against the house."""

import re
import typing
from typing import Any

import pytest

from pipeline.admin import PROVIDER_KINDS
from pipeline.cli.main import COMMAND_PANELS, command
from pipeline.cli.settings import settings_page
from pipeline.devstack.supervisor import ROLES
from tests.architecture.repository import ROOT, project, section, table, text
from topics.registry import TOPICS


def test_the_settings_page_is_what_the_code_says() -> None:
    assert text("docs/settings.md") == settings_page(), "run: mailfold settings > docs/settings.md"


def test_every_setting_is_explained() -> None:
    for name, default, meaning in table(settings_page()):
        assert meaning, name
        assert "undefined" not in default.lower()


def test_the_topic_table_is_the_registry() -> None:
    rows = [tuple(row[:5]) for row in table(section(text("topics/README.md"), "Topics"))]
    assert rows == [
        (
            topic.name,
            topic.key,
            ", ".join(kind.__name__ for kind in _records(topic.value)),
            topic.wire,
            topic.retention_text,
        )
        for topic in TOPICS
    ]


def test_the_glossary_explains_each_word_once() -> None:
    words = [row[0] for row in table(section(text("topics/README.md"), "Glossary"))]
    assert len(words) == len(set(words)) >= 20


def test_the_picture_shows_every_topic_and_every_role() -> None:
    shown = set(re.findall(r"[\w-]+", _picture()))
    assert {topic.name for topic in TOPICS} <= shown
    assert set(ROLES) <= shown


def test_the_picture_fits_one_screen() -> None:
    assert len(_picture().splitlines()) <= 45


def test_every_topic_in_the_picture_is_written_and_read() -> None:
    edges = set(re.findall(r"^ *([\w-]+)\S* -->(?:\|[^|]*\|)? *([\w-]+)", _picture(), re.MULTILINE))
    written = {end for _, end in edges}
    read = {start for start, _ in edges}
    for topic in TOPICS:
        assert topic.name in written, f"nobody writes {topic.name}"
        # The changelog is read at recovery only; dead letters are read by people.
        assert topic.name in read or topic.name in {"email-states", "dead-letters"}, f"nobody reads {topic.name}"


@pytest.mark.parametrize("name", [name for names in COMMAND_PANELS.values() for name in names])
def test_every_command_of_the_story_exists_and_is_told_of(name: str) -> None:
    assert name in command().commands
    told = text("README.md") + text("CONTRIBUTING.md")
    assert re.search(rf"`?mailfold {name}\b|`{name}`|make {name}\b", told), f"README.md says nothing of {name}"


def test_the_story_leaves_no_command_out() -> None:
    assert list(command().commands) == [name for names in COMMAND_PANELS.values() for name in names]


def test_every_kind_of_provider_is_in_the_table_and_has_a_page() -> None:
    rows = [row[0] for row in table(text("docs/providers/README.md").partition("## What each")[0])]
    linked = dict(re.findall(r"\[(\w+)\]\(([\w./]+)\)", " ".join(rows)))
    assert {*linked, "smtp"} == set(PROVIDER_KINDS)
    assert [page for page in linked.values() if not (ROOT / "docs/providers" / page).exists()] == []


def test_every_dependency_has_one_reason() -> None:
    told = [
        name.strip() for row in table(section(text("docs/decisions.md"), "Dependencies")) for name in row[0].split(",")
    ]
    extras: dict[str, Any] = project()["project"]["optional-dependencies"]
    groups: dict[str, Any] = project()["dependency-groups"]
    optional = [line for lines in (*extras.values(), *groups.values()) for line in lines]
    wanted = [*project()["project"]["dependencies"], *optional]
    assert len(told) == len(set(told)), "a package stands there twice"
    assert set(told) == {re.split(r"[\[<>=~! ]", line)[0] for line in wanted}


def _picture() -> str:
    found = re.search(r"```mermaid\n(.*?)```", text("README.md"), re.DOTALL)
    assert found
    return found[1]


def _records(value: Any) -> tuple[type, ...]:
    return typing.get_args(value) or (value,)
