"""Decide whether an event is about the email that it names without proof.

Anybody who knows a webhook's password can name any email. Such an event counts if an ack shows that its provider got
this email, or if the same event has counted already. The correlation loop and `mailfold renormalize` call it.
"""

from collections.abc import Iterable
from typing import Any

import psycopg

from pipeline.dispatch.correlation.parked import SQL
from projections.columns import is_storable_id
from projections.history_queries import decode_fact
from projections.text import storable_text
from topics.acks import Acked, Deferred
from topics.events import DeliveryEvent
from topics.record import EmailId

ClaimKey = tuple[EmailId, str, str]
"""The email that an event names, the event's provider and its id."""


def claim_key(event: DeliveryEvent) -> ClaimKey:
    """Return the key of an event's claim."""
    return event.claimed_email_id, event.provider, event.event_id


async def proven_claims(connection: psycopg.AsyncConnection[Any], events: Iterable[DeliveryEvent]) -> set[ClaimKey]:
    """Return the claims of these events that the projected history proves."""
    claims = {claim_key(event) for event in events if is_storable_id(event.claimed_email_id)}
    if not claims:
        return set()
    values = {
        "email_ids": list({email_id for email_id, _, _ in claims}),
        "event_ids": list({storable_text(event_id) for _, _, event_id in claims}),
    }
    rows = await (await connection.execute(SQL["evidence_of_claims"], values)).fetchall()
    facts = [decode_fact(fact) for (fact,) in rows]
    handed_over = {(fact.email_id, fact.provider) for fact in facts if isinstance(fact, Acked | Deferred)}
    counted = {(fact.email_id, fact.event_id) for fact in facts if isinstance(fact, DeliveryEvent)}
    return {
        (email_id, provider, event_id)
        for email_id, provider, event_id in claims
        if (email_id, provider) in handed_over or (email_id, event_id) in counted
    }
