"""The JSON of the history API: what keys without addresses must not see."""

import json

import msgspec
import pytest

from pipeline.dialects.api_v1 import timeline_entry_view
from projections.timeline import TimelineFact
from tests.support.changes import T0, event, request
from topics.changes import Fact
from topics.events import EventKind
from topics.requests import HeaderRecipients, Mailbox

REQUEST = msgspec.structs.replace(
    request(1, T0),
    recipient_name="Anna Brown",
    shown=HeaderRecipients(cc=(Mailbox(address="bob@example.com", name="Bob Green"),)),
    variables=msgspec.Raw(b'{"first": "Anna", "debt": 12}'),
    details=msgspec.Raw(b'{"To": "Anna Brown"}'),
    sender=Mailbox(address="news@example.com", name="News"),
)
EVENT = msgspec.structs.replace(event(1, EventKind.BOUNCED, T0), native=msgspec.Raw(b'{"to": ["Anna Brown"]}'))


def details(fact: Fact, *, masks_addresses: bool) -> str:
    return bytes(timeline_entry_view(TimelineFact(fact, []), masks_addresses=masks_addresses).details).decode()


@pytest.mark.parametrize("fact", [REQUEST, EVENT], ids=["accepted", "bounced"])
def test_timeline_has_no_names_without_the_scope_for_addresses(fact: Fact) -> None:
    masked = details(fact, masks_addresses=True)
    for hidden in ("Anna", "Brown", "Green", "player", "example.com", "debt"):
        assert hidden not in masked, hidden


def test_accepted_fact_never_shows_variables_and_other_recipients() -> None:
    shown = json.loads(details(REQUEST, masks_addresses=False))
    assert shown["recipient_name"] == "Anna Brown"
    assert not shown.keys() & {"variables", "shown", "details", "content"}
