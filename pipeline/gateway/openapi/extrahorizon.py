"""Describe `/mail/v1` in OpenAPI; its routes use the descriptions."""

from typing import Any, Final

from fastapi import Response

from pipeline.gateway.idempotency_key import IDEMPOTENCY_KEY_HEADER

SEND_EXAMPLE: Final[dict[str, Any]] = {
    "recipients": {"to": ["anna@example.com"], "cc": ["ben@example.com"]},
    "from": "Example <news@example.com>",
    "reply_to": ["support@example.com"],
    "template_id": "welcome",
    "language": "en-GB",
    "content": {"first_name": "Anna"},
    "attachments": [{"filename": "terms.txt", "content": "SGVsbG8=", "type": "text/plain"}],
}
MAIL_EXAMPLE: Final[dict[str, Any]] = {
    "id": "0e5a0f0c-9f5b-5c0e-8d1a-3a52b1e1a001",
    "creator_id": "c2f1d1de-6a6f-5b63-8a56-5e1d1f0e9b03",
    "aws_message_id": "0102018f2b7c1d2e-5d3c",
    "views": 2,
    "from": "Example <news@example.com>",
    "reply_to": ["support@example.com"],
    "recipients": {"to": ["anna@example.com"], "cc": ["ben@example.com"]},
    "subject": "Welcome, Anna",
    "template_id": "d6a4e1da-4729-5bd8-bb67-e5d93fac9e16",
    "content": {"first_name": "Anna"},
    "language": "en-GB",
    "creation_timestamp": 1449791030123,
    "update_timestamp": 1449792030456,
}
PAGE_EXAMPLE: Final[dict[str, Any]] = {"page": {"total": 1, "offset": 0, "limit": 20}, "data": [MAIL_EXAMPLE]}


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _media(schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    return {"application/json": {"schema": schema} | ({} if example is None else {"example": example})}


_PROBLEM: Final[dict[str, Any]] = {
    "description": "`code`, `name`, `message`.",
    "content": _media(_reference("ExtraHorizonProblem")),
}
_PAGE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["page", "data"],
    "properties": {
        "page": {
            "type": "object",
            "required": ["offset", "limit"],
            "properties": {name: {"type": "integer"} for name in ("total", "offset", "limit")},
        },
        "data": {"type": "array", "items": {"type": "object"}},
    },
}
_RQL: Final = (
    "The query string itself, such as `?eq(subject,Hello)&sort(-creation_timestamp)&limit(10,20)`: eq, ne, gt, ge, lt, "
    "le, in, out, like, contains, excludes, and, or, select, sort, limit, skipCount. A number in a path is an index "
    "into a list: `excludes(recipients.to.2)`."
)


def _listing(description: str, example: Any) -> dict[str, Any]:
    return {
        "response_class": Response,
        "openapi_extra": {"x-rql": _RQL},
        "responses": {
            200: {"description": description, "content": _media(_PAGE, example)},
            **dict.fromkeys((400, 401, 503), _PROBLEM),
        },
    }


ROUTES_OPENAPI: Final[dict[str, dict[str, Any]]] = {
    "health": {"response_class": Response, "responses": {200: {"description": "The service is up."}}},
    "send": {
        "response_class": Response,
        "openapi_extra": {
            "parameters": [
                {
                    "name": IDEMPOTENCY_KEY_HEADER,
                    "in": "header",
                    "required": False,
                    "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]*$"},
                    "description": "Makes repeated requests safe: the same key, the same mail.",
                }
            ],
            "requestBody": {"required": True, "content": _media(_reference("ExtraHorizonSendRequest"), SEND_EXAMPLE)},
        },
        "responses": {
            200: {
                "description": "Accepted: the mail is durable and will be sent.",
                "content": _media(_reference("ExtraHorizonMail"), MAIL_EXAMPLE),
            },
            **dict.fromkeys((400, 401, 404, 409, 413, 415, 429, 503), _PROBLEM),
        },
    },
    "find": _listing("A page of mails.", PAGE_EXAMPLE),
    "queued": _listing("A page of mails that are not sent yet.", None),
    "open": {
        "response_class": Response,
        "responses": {
            200: {
                "description": "Counted.",
                "content": {
                    "application/json": {
                        "schema": {"type": "object", "properties": {"affected_records": {"type": "integer"}}}
                    },
                    "image/gif": {"schema": {"type": "string", "format": "binary"}},
                },
            },
            404: _PROBLEM,
        },
    },
}
