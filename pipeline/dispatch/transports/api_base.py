"""What an HTTP API's module takes and gives: mails in, a request out; its reply in, answers out. Pure."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from pipeline.admin import Provider
from pipeline.dispatch.transports.base import OutgoingEmail, SendOutcome, SendResult
from pipeline.jobs.job import EndpointHealth
from pipeline.runtime.retry_after import parse_retry_after
from topics import verdict
from topics.record import Millis


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """A request to make."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    """They carry the credential."""
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """What came back, as far as it was read."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    received_at: Millis = 0

    def json(self) -> Any:
        """The body, if it is JSON; None otherwise: proxies answer in HTML."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def fields(self) -> Mapping[str, Any]:
        """The body, if it is a JSON object."""
        found = self.json()
        return found if isinstance(found, dict) else {}


class ProviderApi(Protocol):
    """What each API's module offers."""

    SUPPORTS_SMTPUTF8: bool
    """Whether it takes addresses whose local part is not ASCII (RFC 6531)."""
    TAKES_MIME: bool
    """Whether it takes our message as it is."""
    IS_IDEMPOTENT: bool
    """Whether the same request made twice is taken once: its own idempotency."""
    OPTION_NAMES: tuple[str, ...]
    """What its provider's row may say beside what all have."""

    def missing_settings(self, provider: Provider, /) -> str:
        """What the provider's row lacks; empty: nothing."""
        ...

    def message_request(self, provider: Provider, mail: OutgoingEmail, now: Millis, /) -> ApiRequest:
        """Hand one mail over. Raises Refused for what this API can't carry."""
        ...

    def message_result(self, reply: ApiResponse, /) -> SendResult:
        """What became of it."""
        ...

    def check_request(self, provider: Provider, now: Millis, /) -> ApiRequest:
        """The cheapest request that shows whether the credential works."""
        ...

    def credential_problem(self, reply: ApiResponse, /) -> str:
        """What is wrong; empty: it works."""
        ...


class BatchApi(Protocol):
    """What an API's module offers beside, if one request may carry many independent mails."""

    BATCH_MAX_MAILS: int
    """How many."""
    BATCH_MAX_BYTES: int
    """How large such a request may get."""

    def fits_batch(self, mail: OutgoingEmail, /) -> bool:
        """Whether the call for many takes this one."""
        ...

    def batch_request(self, provider: Provider, mails: Sequence[OutgoingEmail], /) -> ApiRequest:
        """Hand many over. Raises Refused as ``call`` does."""
        ...

    def batch_results(self, reply: ApiResponse, count: int, /) -> list[SendResult] | None:
        """What became of each; None: the request as a whole was refused for one of them, nothing was taken."""
        ...


MAX_RETRY_AFTER_S: Final = 86_400.0
_REFUSED: Final = (400, 406, 413, 415, 422)
_NOT_NOW: Final = (425, 429, 503)
"""Said before anything was done. Other 5xx leave it open: a proxy may have lost an answer that was a yes."""


def outcome_of_status(status: int) -> SendOutcome:
    """What a status means where the provider's own code says nothing more exact."""
    if 200 <= status < 300:
        return SendOutcome.TAKEN
    if status in _REFUSED:
        return SendOutcome.REFUSED
    if status in _NOT_NOW:
        return SendOutcome.LATER
    # A redirect is followed by nobody: the provider's address is wrong. So is what is forbidden or isn't there.
    return SendOutcome.MISCONFIGURED if 300 <= status < 500 and status != 408 else SendOutcome.UNKNOWN


_LANES: Final = {
    SendOutcome.MISCONFIGURED: EndpointHealth.BROKEN,
    SendOutcome.LATER: EndpointHealth.FAILING,
    SendOutcome.UNKNOWN: EndpointHealth.FAILING,
}


def send_result(
    reply: ApiResponse, meaning: SendOutcome, text: str, provider_message_id: str = "", *, of_one: bool = False
) -> SendResult:
    """Return an answer by this reply; what refuses a message and blames the account is a fault of the set-up."""
    if meaning is SendOutcome.REFUSED and verdict.is_setup_fault(0, "", text):
        meaning, of_one = SendOutcome.MISCONFIGURED, True
    lane = _LANES.get(meaning, EndpointHealth.HEALTHY)
    wait = retry_after_seconds(reply) if meaning is SendOutcome.LATER else 0.0
    return SendResult(
        meaning, reply.status, text or "no words", lane, provider_message_id, wait, concerns_one_email=of_one
    )


def retry_after_seconds(reply: ApiResponse) -> float:
    """Return the seconds that the provider wants to be left alone, a day at most; 0 where it doesn't say."""
    seconds = parse_retry_after(reply.headers.get("retry-after", ""), reply.received_at)
    return min(seconds or 0.0, MAX_RETRY_AFTER_S)


def body_excerpt(reply: ApiResponse) -> str:
    """The beginning of a body that is no JSON."""
    return " ".join(reply.body[:500].decode("utf-8", "replace").split())


def json_request(url: str, headers: Mapping[str, str], value: Any) -> ApiRequest:
    """A POST of JSON."""
    posted = {"Content-Type": "application/json", "Accept": "application/json", **headers}
    return ApiRequest("POST", url, posted, msgspec.json.encode(value))


def basic_auth(username: str, password: str) -> str:
    """Basic authentication (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def base_url(provider: Provider, own: str) -> str:
    """The provider's API: its own, or where the operator says it is."""
    return (provider.api_url or own).rstrip("/")


def option(provider: Provider, name: str) -> str:
    """One of the row's options; empty where it isn't set."""
    return dict(provider.options).get(name, "")
