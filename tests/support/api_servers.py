"""Run stand-ins for the providers' APIs, which validate requests by the vendors' schemas and answer as documented."""

import asyncio
import base64
import contextlib
import email
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any, Final

import botocore.session
import jsonschema
from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.validate import ParamValidator
from postmark import Email

from pipeline.admin import Provider
from tests.support.http_server import http_server

SCHEMAS: Final = Path(__file__).parents[1] / "golden" / "transports"
KEY: Final = "the-api-key"
KEY_ID: Final = "AKIDEXAMPLE"
ECHO: Final = "mailfold_email_id"
TAG: Final = "mailfold_email_tag"


@dataclass(frozen=True)
class Seen:
    """A mail that arrived: its recipients, and the ids that the provider repeats in its events."""

    recipients: tuple[str, ...]
    email_id: str
    key: str = ""


Answer = tuple[int, Any] | tuple[int, Any, Mapping[str, str]]


@dataclass
class Api:
    """One provider's API: what arrived, and the ``faults`` to answer with, in order, before regular answers."""

    kind: str
    port: int = 0
    mails: list[Seen] = field(default_factory=list)
    requests: int = 0
    faults: list[Answer | str] = field(default_factory=list)
    slow: float = 0.0
    busy: int = 0
    busiest: int = 0
    keys: dict[str, tuple[bytes, Answer]] = field(default_factory=dict)
    """The body and the answer of each of Resend's idempotency keys."""
    forms: list[dict[str, bytes]] = field(default_factory=list)
    """The fields of each of Mailgun's requests."""
    complaints: list[str] = field(default_factory=list)
    """Descriptions of requests that the vendor would have refused."""

    @property
    def provider(self) -> Provider:
        users = {"ses": KEY_ID, "mailgun": "mail.example"}
        return Provider(
            provider=f"{self.kind}-api",
            kind=self.kind,
            via="api",
            username=users.get(self.kind, ""),
            password=KEY,
            region="eu-west-1" if self.kind == "ses" else "",
            api_url=f"http://127.0.0.1:{self.port}",
            max_connections=4,
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests += 1
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            await asyncio.sleep(self.slow)
            fault = self.faults.pop(0) if self.faults else None
            if fault == "reset before":
                return _reset(request)
            answer = fault if isinstance(fault, tuple) else self._answer(request, body)
            return _reset(request) if fault == "reset after" else _response(answer)
        finally:
            self.busy -= 1

    def _answer(self, request: web.Request, body: bytes) -> Answer:
        try:
            return READERS[self.kind](self, request, body)
        except (AssertionError, jsonschema.ValidationError, ValueError, KeyError) as error:
            self.complaints.append(f"{type(error).__name__}: {error}"[:2000])
            return 422, {"message": "see the complaints"}


def _reset(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def _echoed(metadata: Mapping[str, str]) -> str:
    """Return the email's id in the metadata that this provider repeats, which must have nothing but it and its tag."""
    assert set(metadata) == {ECHO, TAG}
    assert re.fullmatch("[0-9a-f]{32}", metadata[TAG])
    return metadata[ECHO]


def _response(answer: Answer) -> web.Response:
    status, body = answer[0], answer[1]
    headers = dict(answer[2]) if len(answer) == 3 else {}
    if isinstance(body, str):
        return web.Response(status=status, text=body, content_type="text/html", headers=headers)
    return web.json_response(body, status=status, headers=headers)


# ---------------------------------------------------------------------------------- Amazon SES
_MODEL: Final = botocore.session.get_session().get_service_model("sesv2")


def _ses(api: Api, request: web.Request, body: bytes) -> Answer:
    assert signature_is_botocores(request.method, str(request.url), request.headers, body)
    if request.method == "GET":
        assert request.path == "/v2/email/account"
        return 200, {"SendingEnabled": True}
    assert request.path == _MODEL.operation_model("SendEmail").http["requestUri"]
    message = json.loads(body)
    blob = email.message_from_bytes(_b64(message["Content"]["Raw"]["Data"]))
    parsed = {**message, "Content": {"Raw": {"Data": b"x"}}}
    report = ParamValidator().validate(parsed, _MODEL.operation_model("SendEmail").input_shape)
    assert not report.has_errors(), report.generate_report()
    tags = {tag["Name"]: tag["Value"] for tag in message["EmailTags"]}
    to = tuple(message["Destination"]["ToAddresses"])
    api.mails.append(Seen(to, _echoed(tags), str(blob["Message-ID"])))
    return 200, {"MessageId": f"0102{secrets.token_hex(8)}-000000"}


def signature_is_botocores(method: str, url: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Return whether botocore makes the same signature for the same time and headers."""
    headers = {name.lower(): value for name, value in headers.items()}
    authorization = headers["authorization"]
    names = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    request = AWSRequest(method, url, {name: headers[name] for name in names}, body)
    request.context["timestamp"] = headers["x-amz-date"]
    signer = SigV4Auth(Credentials(KEY_ID, KEY), "ses", "eu-west-1")
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    credential = f"Credential={KEY_ID}/{headers['x-amz-date'][:8]}/eu-west-1"
    return authorization.endswith(f"Signature={signature}") and credential in authorization


def _b64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


# ------------------------------------------------------------------------------------ SendGrid
def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))


def _bearer(request: web.Request) -> None:
    assert request.headers["Authorization"] == f"Bearer {KEY}"


def _sendgrid(api: Api, request: web.Request, body: bytes) -> Answer:
    _bearer(request)
    if request.path == "/v3/scopes":
        return 200, {"scopes": ["mail.send"]}
    assert (request.method, request.path) == ("POST", "/v3/mail/send")
    message = json.loads(body)
    jsonschema.validate(message, schema("sendgrid"), format_checker=jsonschema.FormatChecker())
    assert all(value.isascii() for value in message["headers"].values())
    [personalization] = message["personalizations"]
    to = tuple(mailbox["email"] for mailbox in personalization["to"])
    api.mails.append(Seen(to, _echoed(personalization["custom_args"]), message["headers"]["Message-ID"]))
    return 202, "", {"X-Message-Id": secrets.token_urlsafe(16)}


# ------------------------------------------------------------------------------------- Mailgun
def _mailgun(api: Api, request: web.Request, body: bytes) -> Answer:
    assert request.headers["Authorization"] == "Basic YXBpOnRoZS1hcGkta2V5"
    if request.method == "GET":
        assert request.path == "/v3/domains/mail.example"
        return 200, {"domain": {"name": "mail.example", "state": "active"}}
    assert (request.method, request.path) == ("POST", "/v3/mail.example/messages.mime")
    fields = form(request.headers["Content-Type"], body)
    api.forms.append(fields)
    written = email.message_from_bytes(fields["message"])
    to = fields["to"].decode()
    variables = {name.removeprefix("v:"): value.decode() for name, value in fields.items() if name.startswith("v:")}
    api.mails.append(Seen((to,), _echoed(variables), str(written["Message-ID"])))
    return 200, {"id": str(written["Message-ID"]), "message": "Queued. Thank you."}


def form(content_type: str, body: bytes) -> dict[str, bytes]:
    """Return the fields of a multipart/form-data body, parsed by the standard library."""
    parsed = email.message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    assert parsed.is_multipart()
    fields = {}
    for part in parsed.get_payload():
        assert isinstance(part, Message)
        name = str(part.get_param("name", header="Content-Disposition"))
        inner = part.get_payload(0) if part.is_multipart() else part
        assert isinstance(inner, Message)
        fields[name] = inner.as_bytes() if part.is_multipart() else bytes(part.get_payload(decode=True) or b"").rstrip()
    return fields


# ------------------------------------------------------------------------------------ Postmark
def _postmark(api: Api, request: web.Request, body: bytes) -> Answer:
    if request.headers["X-Postmark-Server-Token"] != KEY:
        return 401, {"ErrorCode": 10, "Message": "Bad or missing API token."}
    if request.path == "/server":
        return 200, {"ID": 1}
    payload = json.loads(body)
    if request.path == "/email":
        return 200, _postmark_one(api, payload)
    assert request.path == "/email/batch"
    assert 1 <= len(payload) <= 500
    return 200, [_postmark_one(api, message) for message in payload]


def _postmark_one(api: Api, message: dict[str, Any]) -> dict[str, Any]:
    assert set(message) <= {str(info.alias) for info in Email.model_fields.values()}, set(message)
    read = Email.model_validate(message)
    assert all(len(name) <= 20 and len(value) <= 80 for name, value in read.metadata.items())
    assert all(header.value.isascii() for header in read.headers)
    if "inactive@" in read.to:
        return {"ErrorCode": 406, "Message": f"You tried to send to {read.to}, marked as inactive."}
    ids = [header.value for header in read.headers if header.name == "Message-ID"]
    api.mails.append(Seen((read.to,), _echoed(read.metadata), ids[0]))
    return {
        "To": read.to,
        "SubmittedAt": "2026-01-01T00:00:00Z",
        "MessageID": secrets.token_hex(16),
        "ErrorCode": 0,
    } | {"Message": "OK"}


# -------------------------------------------------------------------------------------- Resend
def _resend(api: Api, request: web.Request, body: bytes) -> Answer:
    _bearer(request)
    if request.path == "/domains":
        return 401, {"statusCode": 401, "name": "restricted_api_key", "message": "only for sending"}
    key = request.headers["Idempotency-Key"]
    assert 1 <= len(key) <= 256
    if key in api.keys:
        known, answer = api.keys[key]
        return answer if known == body else (409, {"name": "invalid_idempotent_request", "message": "another payload"})
    payload = json.loads(body)
    if request.path == "/emails":
        answer = 200, {"id": _resend_one(api, payload, key)}
    else:
        answer = 200, _resend_batch(api, request, payload, key)
    api.keys[key] = (body, answer)
    return answer


def _resend_batch(api: Api, request: web.Request, messages: list[Any], key: str) -> dict[str, Any]:
    assert request.path == "/emails/batch"
    assert request.headers["x-batch-validation"] == "permissive"
    assert 1 <= len(messages) <= 100
    assert not any("attachments" in message for message in messages)
    invalid = [index for index, message in enumerate(messages) if any("invalid@" in to for to in message["to"])]
    data = [{"id": _resend_one(api, message, key)} for index, message in enumerate(messages) if index not in invalid]
    return {"data": data, "errors": [{"index": index, "message": "Invalid `to` field."} for index in invalid]}


def _resend_one(api: Api, message: dict[str, Any], key: str) -> str:
    jsonschema.validate(message, schema("resend"))
    assert all(value.isascii() for value in message["headers"].values())
    tags = {tag["name"]: tag["value"] for tag in message["tags"]}
    api.mails.append(Seen(tuple(message["to"]), _echoed(tags), key))
    return secrets.token_hex(16)


READERS: Final[Mapping[str, Callable[[Api, web.Request, bytes], Answer]]] = {
    "ses": _ses,
    "sendgrid": _sendgrid,
    "mailgun": _mailgun,
    "postmark": _postmark,
    "resend": _resend,
}


@contextlib.asynccontextmanager
async def api_server(kind: str, port: int = 0) -> AsyncIterator[Api]:
    """Run one provider's API, and assert at the end that it would have refused no request."""
    api = Api(kind)
    try:
        async with http_server(api.handle, port) as api.port:
            yield api
    finally:
        assert not api.complaints, api.complaints
