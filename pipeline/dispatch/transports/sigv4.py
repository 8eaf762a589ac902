"""Sign requests to AWS (Signature Version 4). Pure; called by the module of SES.

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
    """An access key with the region and service that it is used for."""

    key_id: str
    secret: str = field(repr=False)
    region: str
    service: str


def signed_request(request: ApiRequest, credential: AwsCredential, now: Millis) -> ApiRequest:
    """Return the request with the headers Host, X-Amz-Date and Authorization; the signature covers all headers."""
    stamp = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {**request.headers, "Host": urlsplit(request.url).netloc, "X-Amz-Date": stamp}
    names, canonical = _canonical_request(replace(request, headers=headers))
    scope = f"{stamp[:8]}/{credential.region}/{credential.service}/aws4_request"
    to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{_sha256(canonical.encode())}"
    signature = hmac.new(_signing_key(credential, stamp[:8]), to_sign.encode(), hashlib.sha256).hexdigest()
    value = f"{_ALGORITHM} Credential={credential.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return replace(request, headers={**headers, "Authorization": value})


def _canonical_request(request: ApiRequest) -> tuple[str, str]:
    """Return the names of the signed headers, and the request in the canonical form that is hashed."""
    parts = urlsplit(request.url)
    query = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in _query_pairs(parts.query))
    values = {name.lower(): " ".join(value.split()) for name, value in request.headers.items()}
    names = ";".join(sorted(values))
    head = "".join(f"{name}:{values[name]}\n" for name in sorted(values))
    path = quote(parts.path or "/", safe="/-_.~")
    query_string = "&".join(f"{name}={value}" for name, value in query)
    return names, f"{request.method}\n{path}\n{query_string}\n{head}\n{names}\n{_sha256(request.body)}"


def _query_pairs(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)


def _signing_key(credential: AwsCredential, date: str) -> bytes:
    key = f"AWS4{credential.secret}".encode()
    for part in (date, credential.region, credential.service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
