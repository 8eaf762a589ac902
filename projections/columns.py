"""Rows for the sink's tables, made from the changes that a batch causes. Pure; the sink and a rebuild's swap use it.

Rows that transactions of two partitions may both write are sorted, so that those transactions can't deadlock.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from projections.email_facets import NormalizeAddress, facet_columns, request_facets, state_facets
from projections.pending_conversions import PendingConversion, encode_conversion
from projections.row_changes import (
    ClosedVersion,
    CurrentVersion,
    FactReading,
    FirstRequest,
    TimelineEntry,
    fact_kind,
    fact_occurred_at,
    fact_revision,
    storable_bigint,
)
from projections.suppression_rules import EvidenceKey, EvidenceOrigin
from projections.text import storable_text
from topics.codec import encode as encode_record
from topics.conversions import ConversionWord
from topics.ids import brand_uuid, fingerprint
from topics.readings import listed_state, sent_at, updated_at
from topics.record import EmailId, Millis
from topics.registry import EMAIL_STATES
from topics.requests import SendRequest
from topics.states import EmailState

Row = dict[str, Any]

PROVIDER_ID_SEPARATOR = "\x1f"
"""Separator of a row's provider ids, which are sent as one text: Postgres' nested arrays must be rectangular."""

_encode_fact = msgspec.json.Encoder().encode


def history(
    current: Iterable[tuple[EmailId, CurrentVersion]], partition: int, statistics_groups: Mapping[EmailId, int | None]
) -> Iterable[Row]:
    """Yield the row of each email's current version; ``partition`` is the one of `email-changes` that they are in.

    ``statistics_groups``: the groups in which they are counted.
    """
    for email_id, version in current:
        state = version.state
        ids = (
            storable_text(provider_id).replace(PROVIDER_ID_SEPARATOR, "")
            for _provider, provider_id in state.provider_ids
        )
        yield {
            "email_id": email_id,
            "partition": partition,
            **_request_columns(state.request),
            **_listing_columns(state, version.valid_from),
            **_state_columns(state),
            "updated_at": storable_bigint(updated_at(state)),
            "version": version.version,
            "valid_from": version.valid_from,
            "provider_ids": PROVIDER_ID_SEPARATOR.join(ids),
            "state": encode_record(EMAIL_STATES, state),
            "statistics_group": statistics_groups.get(email_id),
        }


def versions(closed: Iterable[ClosedVersion]) -> Iterable[Row]:
    """Yield the row of each closed version."""
    for version in closed:
        request = version.state.request
        yield {
            "email_id": version.state.email_id,
            "version": version.version,
            "tenant": None if request is None else request.tenant,
            "brand_uuid": None if request is None else brand_uuid(request.tenant, request.brand),
            "recipient": "" if request is None else storable_text(request.recipient),
            **_listing_columns(version.state, version.valid_from),
            **_state_columns(version.state),
            "valid_from": version.valid_from,
            "valid_to": version.valid_to,
            "state": encode_record(EMAIL_STATES, version.state),
        }


def requests(first: Iterable[tuple[EmailId, FirstRequest]], normalize_address: NormalizeAddress) -> Iterable[Row]:
    """Yield the row of each email whose request is known now.

    Clocks may disagree: ``accepted_at`` is never later than the version that has the request, or listings as of that
    version's time would miss the email.
    """
    for email_id, known in first:
        yield {
            "email_id": email_id,
            "accepted_at": storable_bigint(min(known.request.recorded_at, known.valid_from)),
            **facet_columns(request_facets(known.request, normalize_address)),
        }


def timeline(entries: Iterable[tuple[tuple[EmailId, str], TimelineEntry]]) -> Iterable[Row]:
    """Yield the row of each fact; its places are separated by spaces, which topic names don't contain."""
    for (email_id, event_id), entry in entries:
        yield {
            "email_id": email_id,
            "event_id": event_id,
            "kind": fact_kind(entry.fact),
            "occurred_at": fact_occurred_at(entry.fact),
            "recorded_at": storable_bigint(entry.fact.recorded_at),
            "places": " ".join(entry.places),
            "revision": fact_revision(entry.fact),
            "fact": _encode_fact(entry.fact),
            "known_from": entry.known_from,
            "places_known_from": " ".join(map(str, entry.places_known_from)),
            "reading_known_from": entry.reading_known_from,
        }


def corrected_readings(entries: Iterable[tuple[tuple[EmailId, str], TimelineEntry]]) -> Iterable[Row]:
    """Yield a row for each reading of the corrected events: when it was made, and when a later one superseded it."""
    for (email_id, event_id), entry in entries:
        if entry.superseded or fact_revision(entry.fact):
            readings = [*entry.superseded, FactReading(entry.fact, entry.reading_known_from)]
            ends: list[Millis | None] = [reading.known_from for reading in readings[1:]]
            for reading, known_to in zip(readings, [*ends, None], strict=True):
                yield {
                    "email_id": email_id,
                    "event_id": event_id,
                    "revision": fact_revision(reading.fact),
                    "known_from": reading.known_from,
                    "known_to": known_to,
                    "fact": _encode_fact(reading.fact),
                }


def evidence(changes: Iterable[tuple[EvidenceKey, EvidenceOrigin | None]]) -> Iterable[Row]:
    """Yield the rows of new or changed evidence."""
    for key, origin in changes:
        if origin is not None:
            yield {**_evidence_key(key), "event_id": storable_text(origin.event_id), "at": storable_bigint(origin.at)}


def withdrawn_evidence(changes: Iterable[tuple[EvidenceKey, EvidenceOrigin | None]]) -> Iterable[Row]:
    """Return the keys of the evidence to delete."""
    return (_evidence_key(key) for key, origin in changes if origin is None)


def _evidence_key(key: EvidenceKey) -> Row:
    return msgspec.structs.asdict(key) | {"reason": key.reason.value}


def identities(requests: Iterable[SendRequest]) -> Iterable[Row]:
    """Yield what each identity was accepted for, in case the gateway's own row was lost."""
    for request in sorted(requests, key=lambda request: request.email_id):
        yield {
            "email_id": request.email_id,
            "fingerprint": fingerprint(request.recipient, request.brand),
            "recorded_at": storable_bigint(request.recorded_at),
        }


def debts(
    conversions: Sequence[PendingConversion],
    ended: Mapping[tuple[EmailId, ConversionWord], str],
    state: str,
    traces: Mapping[EmailId, str] = {},
) -> Iterable[Row]:
    """Yield the emitter's jobs in ``state``; a conversion that ended in the same batch is in its final state.

    ``traces``: the trace contexts of traced emails.
    """
    for conversion in conversions:
        yield {
            "stream": conversion.email_id,
            "name": conversion.word.value,
            "lane": storable_text(conversion.lane),
            "state": ended.get((conversion.email_id, conversion.word), state),
            "payload": encode_conversion(conversion),
            "traceparent": traces.get(conversion.email_id, ""),
        }


def settlements(ended: Iterable[tuple[tuple[EmailId, ConversionWord], str]]) -> Iterable[Row]:
    """Yield the final state of each ended conversion's job."""
    for (email_id, word), state in ended:
        yield {"stream": email_id, "name": word.value, "state": state}


def is_storable_id(email_id: str) -> bool:
    """Return whether the id is a UUID in canonical form, as the tables require and all our ids are."""
    try:
        return str(uuid.UUID(email_id)) == email_id
    except ValueError:
        return False


def _request_columns(request: SendRequest | None) -> Row:
    if request is None:
        empty = dict.fromkeys(("dialect", "brand", "identity", "message_id", "recipient", "kind"), "")
        return {"tenant": None, "brand_uuid": None, **empty}
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


def _state_columns(state: EmailState) -> Row:
    facets = state_facets(state)
    return facet_columns(facets) | {"status": facets.status.value}


def _listing_columns(state: EmailState, valid_from: Millis) -> Row:
    """Return the state in listings and the time that listings are ordered by.

    Clocks may disagree: ``sent_at`` is never later than the version's own time, or listings as of that time would
    miss the version.
    """
    listed, sent = listed_state(state), sent_at(state)
    return {
        "listed": None if listed is None else listed.value,
        "sent_at": None if sent is None else storable_bigint(min(sent, valid_from)),
    }
