"""Describe the history API in OpenAPI: its parameters come from the table of filters, its examples from here."""

from typing import Any, Final

from pipeline.dialects.api_v1_query import COUNTS, DIRECTIONS, FILTERS
from projections.email_cursor import CURSOR_MAX_CHARS
from projections.email_listing import DEFAULT_PAGE_EMAILS, PAGE_MAX_EMAILS, EmailOrder

EMAIL_ID: Final = "0e7c8f0a-6d5e-5b1c-9a43-5b0f2f6d9e11"
PROBLEM_DETAILS: Final[dict[str, Any]] = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "`about:blank`: the status says what kind of problem it is."},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and what to do."},
        "where": {"type": "string", "description": "The parameter, header or place in the body."},
    },
}
_PROBLEM_CONTENT: Final = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
_PROBLEMS: Final = {
    400: "A parameter is unknown or invalid; `where` says which.",
    401: "No API key, or one that is unknown, revoked or expired.",
    429: "This tenant has as many questions at once as it may; `Retry-After` says when to send it again.",
    503: "Postgres does not answer, or the moment is not projected yet; the request may be sent again.",
    504: "The question takes more than 10 seconds; ask for less.",
}
EMAIL_EXAMPLE: Final[dict[str, Any]] = {
    "email_id": EMAIL_ID,
    "message_id": "0e5a0f0c-9f5b-5c0e-8d1a-3a52b1e1a001",
    "dialect": "fasttrack",
    "brand": "12",
    "brand_id": "7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02",
    "identity": "5f0c2b1e-9a43-4f62-8a53-1c9e3f1f7b11",
    "recipient": "***@example.com",
    "recipient_name": "",
    "sender": "news@example.com",
    "subject": "Welcome, Anna",
    "kind": "",
    "template": None,
    "template_version": None,
    "activity": {"id": "5f0c2b1e-9a43-4f62-8a53-1c9e3f1f7b11", "brand_id": 12, "activity_id": 31337},
    "status": "delivered",
    "provider": "sendgrid",
    "provider_ids": [{"provider": "sendgrid", "id": "14c5d75ce93.dfd.64b469"}],
    "accepted_at": "2026-11-27T09:30:00.000Z",
    "sent_at": "2026-11-27T09:30:00.412Z",
    "updated_at": "2026-11-27T09:30:04.110Z",
    "suppressed_reason": None,
    "facts": {
        "accepted": {
            "first": "2026-11-27T09:30:00.000Z",
            "last": "2026-11-27T09:30:00.000Z",
            "count": 1,
            "count_is_exact": True,
        }
    },
    "bounce": None,
    "complaint": None,
    "drop": None,
    "failure": None,
    "owed": ["delivered"],
    "conversions": {"delivered": {"outcome": "delivered", "at": "2026-11-27T09:30:05.002Z"}},
    "version": 4,
    "valid_from": "2026-11-27T09:30:05.002Z",
}
LISTING_EXAMPLE: Final[dict[str, Any]] = {
    "as_of": "2026-11-27T10:00:00.000Z",
    "emails": [EMAIL_EXAMPLE],
    "next": "kYjZ6mC0…",
    "count": 1204,
    "count_kind": "exact",
}
TIMELINE_EXAMPLE: Final[dict[str, Any]] = {
    "as_of": "2026-11-27T10:00:00.000Z",
    "email_id": EMAIL_ID,
    "timeline": [
        {
            "kind": "acked",
            "event_id": "ack:0e7c8f0a:1",
            "occurred_at": "2026-11-27T09:30:00.412Z",
            "recorded_at": "2026-11-27T09:30:00.415Z",
            "places": ["provider-acks/0/91"],
            "duplicates": 0,
            "details": {"provider": "sendgrid", "code": 202, "provider_message_id": "14c5d75ce93.dfd.64b469"},
        }
    ],
    "truncated": False,
}
_EXAMPLES: Final[dict[str, Any]] = {
    "EmailListResponse": LISTING_EXAMPLE,
    "EmailResponse": {"as_of": LISTING_EXAMPLE["as_of"], "email": EMAIL_EXAMPLE},
    "TimelineResponse": TIMELINE_EXAMPLE,
    "VersionsResponse": {"as_of": LISTING_EXAMPLE["as_of"], "email_id": EMAIL_ID, "versions": [EMAIL_EXAMPLE]},
    "ChangesResponse": {
        "changes": [EMAIL_EXAMPLE],
        "next": "kYjZ6mC0…",
        "as_of": LISTING_EXAMPLE["as_of"],
        "more": False,
    },
}


def problem(description: str) -> dict[str, Any]:
    """Return the description of an answer that is a problem."""
    return {"description": description, "content": _PROBLEM_CONTENT}


def route(summary: str, response: str) -> dict[str, Any]:
    """Return what a route that answers with one of the API's types passes to the framework."""
    schema = {"$ref": f"#/components/schemas/{response}"}
    answer = {"application/json": {"schema": schema, "example": _EXAMPLES[response]}}
    responses: dict[int, Any] = {200: {"description": "Success.", "content": answer}}
    responses |= {status: problem(text) for status, text in _PROBLEMS.items()}
    if response not in {"EmailListResponse", "ChangesResponse"}:
        responses[404] = problem("No email with this id was known at this moment.")
    return {"summary": summary, "responses": responses}


def _filter_schema(name: str) -> dict[str, Any]:
    parameter = FILTERS[name]
    schema: dict[str, Any] = {"type": "string"}
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    return {"type": "array", "items": schema} if parameter.is_list else schema


_OTHERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "order": (
        "The time by which emails are ordered. By `sent`, only emails that a provider has, or that will never be sent. "
        "Default: accepted.",
        {"type": "string", "enum": [order.value for order in EmailOrder]},
    ),
    "direction": ("Newest or oldest first. Default: desc.", {"type": "string", "enum": list(DIRECTIONS)}),
    "limit": (
        f"Emails on a page. Default: {DEFAULT_PAGE_EMAILS}.",
        {"type": "integer", "minimum": 1, "maximum": PAGE_MAX_EMAILS},
    ),
    "as_of": (
        "The moment to show: RFC 3339, or milliseconds since 1970. Default, and at most: now. The answer has it.",
        {"type": "string"},
    ),
    "fields": ("Only these fields, apart by commas; `facts.opened` is a field of a field.", {"type": "string"}),
    "count": (
        "How many emails match: `exact`, or up to 10,000 with `estimate`.",
        {"type": "string", "enum": list(COUNTS)},
    ),
    "cursor": (
        "`next` of the previous page. It contains the question and the moment; parameters beside it must be the same, "
        "and `recipient` must be repeated.",
        {"type": "string", "maxLength": CURSOR_MAX_CHARS},
    ),
}
_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": name,
        "in": "query",
        "required": False,
        "description": FILTERS[name].meaning,
        "schema": _filter_schema(name),
        "example": [FILTERS[name].example] if FILTERS[name].is_list else FILTERS[name].example,
    }
    for name in FILTERS
] + [
    {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
    for name, (text, schema) in _OTHERS.items()
]
FILTER_PROPERTIES: Final[dict[str, Any]] = {
    name: _filter_schema(name) | {"description": parameter.meaning} for name, parameter in FILTERS.items()
}
_BODY_PROPERTIES: Final = FILTER_PROPERTIES | {
    name: schema | {"description": text} for name, (text, schema) in _OTHERS.items()
}

LISTING: Final = {**route("List emails", "EmailListResponse"), "openapi_extra": {"parameters": _PARAMETERS}}
LOOKUP: Final = {
    **route("Look emails up", "EmailListResponse"),
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object", "properties": _BODY_PROPERTIES, "additionalProperties": False},
                    "example": {"recipient": "anna@example.com", "status": ["bounced", "complained"]},
                }
            },
        }
    },
}
