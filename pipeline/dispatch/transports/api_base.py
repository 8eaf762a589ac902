"""What an HTTP API's module takes and gives: mails in, a request out; its reply in, answers out. Pure."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec

from pipeline.admin import Provider
from pipeline.dispatch.transports.base import Answer, Mail, Meaning
from pipeline.jobs.job import Lane
from pipeline.runtime.retry_after import parse_retry_after
from topics import verdict
from topics.record import Millis


@dataclass(frozen=True, slots=True)
class Call:
    """A request to make."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    """They carry the credential."""
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
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


class Api(Protocol):
    """What each API's module offers."""

    SMTPUTF8: bool
    """Whether it takes addresses whose local part is not ASCII (RFC 6531)."""
    MIME: bool
    """Whether it takes our message as it is."""
    REPEATS: bool
    """Whether the same request made twice is taken once: its own idempotency."""
    OPTIONS: tuple[str, ...]
    """What its provider's row may say beside what all have."""

    def missing(self, provider: Provider, /) -> str:
        """What the provider's row lacks; empty: nothing."""
        ...

    def call(self, provider: Provider, mail: Mail, now: Millis, /) -> Call:
        """Hand one mail over. Raises Refused for what this API can't carry."""
        ...

    def answer(self, reply: Reply, /) -> Answer:
        """What became of it."""
        ...

    def check(self, provider: Provider, now: Millis, /) -> Call:
        """The cheapest request that shows whether the credential works."""
        ...

    def checked(self, reply: Reply, /) -> str:
        """What is wrong; empty: it works."""
        ...


class Many(Protocol):
    """What an API's module offers beside, if one request may carry many independent mails."""

    BATCH: int
    """How many."""
    BATCH_BYTES: int
    """How large such a request may get."""

    def fits(self, mail: Mail, /) -> bool:
        """Whether the call for many takes this one."""
        ...

    def batch(self, provider: Provider, mails: Sequence[Mail], /) -> Call:
        """Hand many over. Raises Refused as ``call`` does."""
        ...

    def answers(self, reply: Reply, count: int, /) -> list[Answer] | None:
        """What became of each; None: the request as a whole was refused for one of them, nothing was taken."""
        ...


MAX_RETRY_AFTER_S: Final = 86_400.0
_REFUSED: Final = (400, 406, 413, 415, 422)
_NOT_NOW: Final = (425, 429, 503)
"""Said before anything was done. Other 5xx leave it open: a proxy may have lost an answer that was a yes."""


def by_status(status: int) -> Meaning:
    """What a status means where the provider's own code says nothing more exact."""
    if 200 <= status < 300:
        return Meaning.TAKEN
    if status in _REFUSED:
        return Meaning.REFUSED
    if status in _NOT_NOW:
        return Meaning.LATER
    # A redirect is followed by nobody: the provider's address is wrong. So is what is forbidden or isn't there.
    return Meaning.MISCONFIGURED if 300 <= status < 500 and status != 408 else Meaning.UNKNOWN


_LANES: Final = {
    Meaning.MISCONFIGURED: Lane.BROKEN,
    Meaning.LATER: Lane.FAILING,
    Meaning.UNKNOWN: Lane.FAILING,
}


def answered(
    reply: Reply, meaning: Meaning, text: str, provider_message_id: str = "", *, of_one: bool = False
) -> Answer:
    """Return an answer by this reply; what refuses a message and blames the account is a fault of the set-up."""
    if meaning is Meaning.REFUSED and verdict.is_setup_fault(0, "", text):
        meaning, of_one = Meaning.MISCONFIGURED, True
    lane = _LANES.get(meaning, Lane.HEALTHY)
    wait = retry_after(reply) if meaning is Meaning.LATER else 0.0
    return Answer(meaning, reply.status, text or "no words", lane, provider_message_id, wait, of_one=of_one)


def retry_after(reply: Reply) -> float:
    """Return the seconds that the provider wants to be left alone, a day at most; 0 where it doesn't say."""
    seconds = parse_retry_after(reply.headers.get("retry-after", ""), reply.received_at)
    return min(seconds or 0.0, MAX_RETRY_AFTER_S)


def words(reply: Reply) -> str:
    """The beginning of a body that is no JSON."""
    return " ".join(reply.body[:500].decode("utf-8", "replace").split())


def as_json(url: str, headers: Mapping[str, str], value: Any) -> Call:
    """A POST of JSON."""
    posted = {"Content-Type": "application/json", "Accept": "application/json", **headers}
    return Call("POST", url, posted, msgspec.json.encode(value))


def basic(username: str, password: str) -> str:
    """Basic authentication (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def base_url(provider: Provider, own: str) -> str:
    """The provider's API: its own, or where the operator says it is."""
    return (provider.api_url or own).rstrip("/")


def option(provider: Provider, name: str) -> str:
    """One of the row's options; empty where it isn't set."""
    return dict(provider.options).get(name, "")
