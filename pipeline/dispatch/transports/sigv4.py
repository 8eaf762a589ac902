"""A request and AWS credentials in, the headers that sign it out (Signature Version 4). Pure.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hashlib
import hmac
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

from pipeline.dispatch.transports.api_base import ApiRequest
from topics.record import Millis

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class AwsCredential:
    """An access key, and where it is good."""

    key_id: str
    secret: str = field(repr=False)
    region: str
    service: str


def signed_request(call: ApiRequest, credential: AwsCredential, now: Millis) -> ApiRequest:
    """The call with what AWS wants to see among its headers; all of them are covered."""
    stamp = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    sent = {**call.headers, "Host": urlsplit(call.url).netloc, "X-Amz-Date": stamp}
    names, canonical = _canonical(replace(call, headers=sent))
    scope = f"{stamp[:8]}/{credential.region}/{credential.service}/aws4_request"
    to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{_sha256(canonical.encode())}"
    signature = hmac.new(_key(credential, stamp[:8]), to_sign.encode(), hashlib.sha256).hexdigest()
    told = f"{_ALGORITHM} Credential={credential.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return replace(call, headers={**sent, "Authorization": told})


def _canonical(call: ApiRequest) -> tuple[str, str]:
    """The names of the headers, and the request as AWS writes it before it hashes it."""
    parts = urlsplit(call.url)
    query = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in _pairs(parts.query))
    lines = {name.lower(): " ".join(value.split()) for name, value in call.headers.items()}
    names = ";".join(sorted(lines))
    head = "".join(f"{name}:{lines[name]}\n" for name in sorted(lines))
    path = quote(parts.path or "/", safe="/-_.~")
    asked = "&".join(f"{name}={value}" for name, value in query)
    return names, f"{call.method}\n{path}\n{asked}\n{head}\n{names}\n{_sha256(call.body)}"


def _pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)


def _key(credential: AwsCredential, date: str) -> bytes:
    key = f"AWS4{credential.secret}".encode()
    for part in (date, credential.region, credential.service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
