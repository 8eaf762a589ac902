"""What a run made of the tables in, values as columns hold them out. Pure.

Rows that transactions of two partitions may both touch come sorted, so that they can't deadlock.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from projections.debts import PendingConversion, encode_conversion
from projections.steps import (
    ClosedVersion,
    CurrentVersion,
    TimelineEntry,
    fact_kind,
    fact_occurred_at,
    fact_revision,
    storable_bigint,
)
from projections.suppressing import EvidenceKey, EvidenceOrigin
from projections.text import storable_text
from topics.codec import encode as encode_record
from topics.conversions import ConversionWord
from topics.ids import brand_uuid, fingerprint
from topics.readings import email_status, listed_state, sent_at, updated_at
from topics.record import EmailId, Millis
from topics.registry import EMAIL_STATES
from topics.requests import SendRequest
from topics.states import EmailState

Row = dict[str, Any]

PROVIDER_ID_SEPARATOR = "\x1f"
"""Between a row's provider ids, which travel as one text: arrays of arrays must be rectangular."""

_encode_fact = msgspec.json.Encoder().encode


def history(standing: Iterable[tuple[EmailId, CurrentVersion]]) -> Iterable[Row]:
    """Each email as it is now."""
    for email_id, row in standing:
        state = row.state
        ids = (
            storable_text(provider_id).replace(PROVIDER_ID_SEPARATOR, "")
            for _provider, provider_id in state.provider_ids
        )
        yield {
            "email_id": email_id,
            **_request(state.request),
            **_listed(state, row.valid_from),
            "status": email_status(state).value,
            "updated_at": storable_bigint(updated_at(state)),
            "version": row.version,
            "valid_from": row.valid_from,
            "provider_ids": PROVIDER_ID_SEPARATOR.join(ids),
            "state": encode_record(EMAIL_STATES, state),
        }


def versions(closed: Iterable[ClosedVersion]) -> Iterable[Row]:
    """Each email as it was."""
    for row in closed:
        request = row.state.request
        yield {
            "email_id": row.state.email_id,
            "version": row.version,
            "tenant": None if request is None else request.tenant,
            "brand_uuid": None if request is None else brand_uuid(request.tenant, request.brand),
            "recipient": "" if request is None else storable_text(request.recipient),
            **_listed(row.state, row.valid_from),
            "valid_from": row.valid_from,
            "valid_to": row.valid_to,
            "state": encode_record(EMAIL_STATES, row.state),
        }


def timeline(moments: Iterable[tuple[tuple[EmailId, str], TimelineEntry]]) -> Iterable[Row]:
    """Each fact once, with its places. Topic names have no space."""
    for (email_id, event_id), moment in moments:
        yield {
            "email_id": email_id,
            "event_id": event_id,
            "kind": fact_kind(moment.fact),
            "occurred_at": fact_occurred_at(moment.fact),
            "recorded_at": storable_bigint(moment.fact.recorded_at),
            "places": " ".join(moment.places),
            "revision": fact_revision(moment.fact),
            "fact": _encode_fact(moment.fact),
        }


def evidence(found: Iterable[tuple[EvidenceKey, EvidenceOrigin | None]]) -> Iterable[Row]:
    """What emails tell of their addresses."""
    for key, sign in found:
        if sign is not None:
            yield {**_told_by(key), "event_id": storable_text(sign.event_id), "at": storable_bigint(sign.at)}


def withdrawn_evidence(found: Iterable[tuple[EvidenceKey, EvidenceOrigin | None]]) -> Iterable[Row]:
    """What they no longer tell."""
    return (_told_by(key) for key, sign in found if sign is None)


def _told_by(key: EvidenceKey) -> Row:
    return msgspec.structs.asdict(key) | {"reason": key.reason.value}


def identities(requests: Iterable[SendRequest]) -> Iterable[Row]:
    """What each identity was accepted for, in case the gateway's own note is gone."""
    for request in sorted(requests, key=lambda request: request.email_id):
        yield {
            "email_id": request.email_id,
            "fingerprint": fingerprint(request.recipient, request.brand),
            "recorded_at": storable_bigint(request.recorded_at),
        }


def debts(
    owed: Sequence[PendingConversion], ended: Mapping[tuple[EmailId, ConversionWord], str], state: str
) -> Iterable[Row]:
    """Jobs for the emitter; those that the same run saw settled are closed at birth."""
    for debt in owed:
        yield {
            "stream": debt.email_id,
            "name": debt.word.value,
            "lane": storable_text(debt.lane),
            "state": ended.get((debt.email_id, debt.word), state),
            "payload": encode_conversion(debt),
        }


def settlements(ended: Iterable[tuple[tuple[EmailId, ConversionWord], str]]) -> Iterable[Row]:
    """Which debts have ended, and how."""
    for (email_id, word), state in ended:
        yield {"stream": email_id, "name": word.value, "state": state}


def is_storable_id(email_id: str) -> bool:
    """Whether the tables can hold this id: a UUID in its canonical form, as every id of ours is."""
    try:
        return str(uuid.UUID(email_id)) == email_id
    except ValueError:
        return False


def _request(request: SendRequest | None) -> Row:
    if request is None:
        blank = dict.fromkeys(("dialect", "brand", "identity", "message_id", "recipient", "kind"), "")
        return {"tenant": None, "brand_uuid": None, **blank}
    return {
        "tenant": request.tenant,
        "dialect": request.dialect,
        "brand": storable_text(request.brand),
        "brand_uuid": brand_uuid(request.tenant, request.brand),
        "identity": storable_text(request.identity),
        "message_id": storable_text(request.message_id),
        "recipient": storable_text(request.recipient),
        "kind": storable_text(request.kind),
    }


def _listed(state: EmailState, valid_from: Millis) -> Row:
    """Its state in listings and its place in their order.

    Two clocks may disagree about which came first: no version stands in a listing behind its own
    time, where the listings of that time would miss it.
    """
    listed, sent = listed_state(state), sent_at(state)
    return {
        "listed": None if listed is None else listed.value,
        "sent_at": None if sent is None else storable_bigint(min(sent, valid_from)),
    }
