"""The interface of the modules for HTTP APIs, and what they share: build requests, interpret replies.

Pure. Implemented by `ses`, `sendgrid`, `mailgun`, `postmark` and `resend`; called by `throttle` and `batcher`.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from pipeline.admin import Provider
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from pipeline.jobs.job import EndpointHealth
from pipeline.runtime.retry_after import parse_retry_after
from topics import refusals
from topics.record import Millis


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """An HTTP request to an API."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    """Names and values; they contain the credential, so they are not printed."""
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """The HTTP response of an API, its body cut to the size that is read."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    received_at: Millis = 0
    """Local time of the reply, for a Retry-After that names a date."""

    def json(self) -> Any:
        """Return the decoded body; None if it is not JSON, for instance the HTML page of a proxy."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def fields(self) -> Mapping[str, Any]:
        """Return the body if it is a JSON object; otherwise an empty mapping."""
        value = self.json()
        return value if isinstance(value, dict) else {}


class ProviderApi(Protocol):
    """The interface of a module that speaks a provider's API."""

    SUPPORTS_SMTPUTF8: bool
    """Whether it takes addresses whose local part is not ASCII (RFC 6531)."""
    TAKES_MIME: bool
    """Whether it takes our MIME message unchanged."""
    IS_IDEMPOTENT: bool
    """Whether the provider accepts a repeated request only once."""
    OPTION_NAMES: tuple[str, ...]
    """Options that the row of this provider may have."""

    def missing_settings(self, provider: Provider, /) -> str:
        """Return what the row of the provider lacks; an empty string if it is complete."""
        ...

    def message_request(self, provider: Provider, mail: OutgoingEmail, now: Millis, /) -> ApiRequest:
        """Return the request that sends one email. Raises Refused if this API cannot carry it."""
        ...

    def message_result(self, reply: ApiResponse, /) -> SendResult:
        """Return the result of a send from the reply to it."""
        ...

    def check_request(self, provider: Provider, now: Millis, /) -> ApiRequest:
        """Return the cheapest request that shows whether the credential works."""
        ...

    def credential_problem(self, reply: ApiResponse, /) -> str:
        """Return what the reply to ``check_request`` says is wrong; an empty string if the credential works."""
        ...


class BatchApi(Protocol):
    """The interface of an API that takes many independent emails in one request."""

    BATCH_MAX_MAILS: int
    """Emails that one request may carry."""
    BATCH_MAX_BYTES: int
    """Size that one request may have, in bytes."""

    def fits_batch(self, mail: OutgoingEmail, /) -> bool:
        """Return whether the email may be sent in a batch."""
        ...

    def batch_request(self, provider: Provider, mails: Sequence[OutgoingEmail], /) -> ApiRequest:
        """Return the request that sends many emails. Raises Refused as ``message_request`` does."""
        ...

    def batch_results(self, reply: ApiResponse, count: int, /) -> list[SendResult] | None:
        """Return the result of each email, in order.

        None means that the request as a whole was refused because of one of them, and none was accepted.
        """
        ...


MAX_RETRY_AFTER_S: Final = 86_400.0
_REFUSED: Final = (400, 406, 413, 415, 422)
_RETRY_LATER: Final = (425, 429, 503)
"""Statuses sent before anything was done. After another 5xx the outcome is unknown: a proxy may have lost a 2xx."""


def outcome_of_status(status: int) -> SendOutcome:
    """Return what an HTTP status means if the provider's own error code does not say more."""
    if 200 <= status < 300:
        return SendOutcome.TAKEN
    if status in _REFUSED:
        return SendOutcome.REFUSED
    if status in _RETRY_LATER:
        return SendOutcome.LATER
    # Redirects are not followed: like a 403 or 404, they mean that the configured URL or credential is wrong.
    return SendOutcome.MISCONFIGURED if 300 <= status < 500 and status != 408 else SendOutcome.UNKNOWN


_HEALTH_OF_OUTCOME: Final = {
    SendOutcome.MISCONFIGURED: EndpointHealth.BROKEN,
    SendOutcome.LATER: EndpointHealth.FAILING,
    SendOutcome.UNKNOWN: EndpointHealth.FAILING,
}


def send_result(
    reply: ApiResponse,
    outcome: SendOutcome,
    text: str,
    provider_message_id: str = "",
    *,
    concerns_one_email: bool = False,
) -> SendResult:
    """Return the result of a send from its reply.

    A refusal whose text blames the account is a configuration fault, not a fault of the message.
    """
    if outcome is SendOutcome.REFUSED and refusals.is_setup_fault(0, "", text):
        outcome, concerns_one_email = SendOutcome.MISCONFIGURED, True
    return SendResult(
        outcome,
        reply.status,
        text or "no words",
        _HEALTH_OF_OUTCOME.get(outcome, EndpointHealth.HEALTHY),
        provider_message_id,
        retry_after_seconds(reply) if outcome is SendOutcome.LATER else 0.0,
        concerns_one_email=concerns_one_email,
    )


def retry_after_seconds(reply: ApiResponse) -> float:
    """Return the seconds to wait that the provider asks for, at most a day; 0 if it asks for none."""
    seconds = parse_retry_after(reply.headers.get("retry-after", ""), reply.received_at)
    return min(seconds or 0.0, MAX_RETRY_AFTER_S)


def body_excerpt(reply: ApiResponse) -> str:
    """Return the beginning of a body that is not JSON, as one line."""
    return " ".join(reply.body[:500].decode("utf-8", "replace").split())


def json_request(url: str, headers: Mapping[str, str], value: Any) -> ApiRequest:
    """Return a request that POSTs ``value`` as JSON."""
    json_headers = {"Content-Type": "application/json", "Accept": "application/json", **headers}
    return ApiRequest("POST", url, json_headers, msgspec.json.encode(value))


def basic_auth(username: str, password: str) -> str:
    """Return the value of an Authorization header for basic authentication (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def base_url(provider: Provider, default: str) -> str:
    """Return the URL of the API: the one that the operator set, or else ``default``."""
    return (provider.api_url or default).rstrip("/")


def option(provider: Provider, name: str) -> str:
    """Return an option of the provider's row; an empty string if it is not set."""
    return dict(provider.options).get(name, "")
