"""Each row of a mapping table is reached by a documented payload: no mapping is untested."""

from types import ModuleType
from typing import Any

import pytest

from pipeline.webhooks.providers import brevo, mailersend, mailjet, mailtrap, mandrill, postal, resend
from pipeline.webhooks.providers.registry import ADAPTERS
from tests.support.golden import cases, events_of_case
from topics.events import BounceClass, EventKind

MODULES = (mailjet, brevo, resend, mandrill, mailersend, mailtrap, postal)


class Watched(dict[str, Any]):
    """A table that remembers which of its rows were asked for."""

    def __init__(self, table: dict[str, Any]) -> None:
        super().__init__(table)
        self.reached: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.reached.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_row_of_a_mapping_is_reached_by_a_golden_payload(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = module.__name__.rpartition(".")[2]
    tables = {
        name: Watched(value) for name, value in vars(module).items() if name.isupper() and isinstance(value, dict)
    }
    assert tables
    for name, table in tables.items():
        monkeypatch.setattr(module, name, table)
    for case in cases(kind):
        events_of_case(ADAPTERS[kind], case)
    assert {name: set(table) - table.reached for name, table in tables.items()} == {name: set() for name in tables}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_only_bounces_have_a_class_and_all_of_them_do(module: ModuleType) -> None:
    kind = module.__name__.rpartition(".")[2]
    events = [event for case in cases(kind) for event in events_of_case(ADAPTERS[kind], case)]
    for event in events:
        assert isinstance(event.bounce_class, BounceClass) == (event.kind is EventKind.BOUNCED)
    classes = {event.bounce_class for event in events if event.bounce_class}
    assert classes == {BounceClass.HARD, BounceClass.SOFT}
