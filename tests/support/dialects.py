"""Describe each dialect's API for tests: its path, a valid request, and the form of its errors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.fasttrack import message as fasttrack_message

BRAND = "7b1c1c0a-52b3-5d56-9f6e-0a3f1f4a7c02"


def email_v1(**changed: Any) -> dict[str, Any]:
    """Return a message of `/v1/Email/`, as documented."""
    fields = {"To": "anna@example.com", "Type": "token", "BrandId": BRAND, "Token": "abcde", "NumPhotos": 10}
    return {**fields, **changed}


def freshmail(*recipients: Any, **changed: Any) -> dict[str, Any]:
    """Return a FreshMail request, to Anna where no recipients are given."""
    fields = {
        "recipients": [entry if isinstance(entry, dict) else {"email": entry} for entry in recipients]
        or [{"email": "anna@example.com", "name": "Anna"}],
        "from": {"name": "John Sender", "email": "sender@example.com"},
        "subject": "Message subject",
        "contents": [{"type": "text/html", "body": "<p>sample HTML</p>"}],
    }
    return {name: value for name, value in (fields | changed).items() if value is not None}


def extrahorizon(**changed: Any) -> dict[str, Any]:
    """Return a plain mail of Extra Horizon's API."""
    fields = {"recipients": {"to": ["anna@example.com"]}, "subject": "Hello", "body": "<p>Hello</p>"}
    return {**fields, **changed}


def is_problem(body: Any) -> bool:
    """Return whether a body is an error of our own APIs."""
    return set(body) == {"error", "where"} and all(isinstance(text, str) for text in body.values())


def _fasttrack(body: Any) -> bool:
    return set(body) == {"error", "code", "where"} and type(body["code"]) is int and 400 <= body["code"] < 600


def _email_v1(body: Any) -> bool:
    return isinstance(body["Error"], str) and set(body) <= {"Error", "Results"}


def _freshmail(body: Any) -> bool:
    errors = body["errors"]
    texts = errors.values() if isinstance(errors, dict) else errors
    return set(body) == {"errors"} and bool(texts) and all(isinstance(text, str) for text in texts)


def _extrahorizon(body: Any) -> bool:
    return set(body) == {"code", "name", "message"} and isinstance(body["code"], int)


@dataclass(frozen=True)
class Surface:
    """A dialect's API."""

    name: str
    path: str
    good: Any
    """A request that is accepted (`/v1/Email/`: answered, as its brand has no template)."""
    is_error: Callable[[Any], bool]


SURFACES = (
    Surface("fasttrack", "/channels/email/batch", [fasttrack_message()], _fasttrack),
    Surface("email_v1", "/v1/Email/", {"Messages": [email_v1()]}, _email_v1),
    Surface("freshmail", "/v3/messaging/emails", freshmail(), _freshmail),
    Surface("extrahorizon", "/mail/v1/", extrahorizon(), _extrahorizon),
)
