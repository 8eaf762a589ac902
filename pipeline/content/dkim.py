"""Sign messages with DKIM (RFC 6376, RFC 8463), and make and check the keys of brands. Pure.

`pipeline.dispatch.deliver` signs; the `brands` commands make and check keys. The canonicalization is relaxed/relaxed,
which survives the changes that mail servers make. It is written on `cryptography`, because the existing library
`dkimpy` computes RSA in Python: 6 ms a message, during which the interpreter's lock is held. The tests verify our
signatures by that library.
"""

import base64
import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from pipeline.errors import Refused
from topics.record import Millis

RSA_KEY_BITS: Final = 2048
"""Bits of an RSA key. Verifiers ignore shorter keys (RFC 8301); longer ones don't fit into every DNS answer."""

_SIGNED_HEADERS: Final = (
    *("from", "to", "cc", "reply-to", "subject", "date", "message-id", "list-unsubscribe", "list-unsubscribe-post"),
    *("mime-version", "content-type", "content-transfer-encoding"),
)
_OVERSIGNED_HEADERS: Final = ("from", "to", "cc", "reply-to", "subject", "date", "message-id")
"""Headers that are listed once more than they occur, so that adding one breaks the signature (RFC 6376 §8.15)."""
_SPACES: Final = re.compile(rb"[ \t]+")
_FOLDS: Final = re.compile(rb"\r\n(?=[ \t])")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"\A{_LABEL}(?:\.{_LABEL})*\Z", re.IGNORECASE)

PrivateKey = RSAPrivateKey | Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class DkimKey:
    """A signing key with the domain and selector under which DNS publishes it."""

    domain: str
    selector: str
    pem: str = field(repr=False)
    """The private key in PEM, PKCS #8 or #1."""


def sign(message: bytes, dkim: DkimKey, now: Millis) -> bytes:
    """Return the message with its DKIM-Signature header in front."""
    head, _, body = message.partition(b"\r\n\r\n")
    fields = list(_canonical_headers(head))
    names = _signed_names([name for name, _ in fields])
    key = _key(dkim.pem)
    algorithm = "rsa-sha256" if isinstance(key, RSAPrivateKey) else "ed25519-sha256"
    body_hash = base64.b64encode(hashlib.sha256(_canonical_body(body)).digest()).decode()
    tags = (
        f"v=1; a={algorithm}; c=relaxed/relaxed;\r\n d={dkim.domain}; s={dkim.selector}; t={now // 1000};\r\n"
        f" h={_folded_names(names)};\r\n bh={body_hash};\r\n b="
    )
    signed_headers = b"".join(_signed_headers(fields, names)) + _relaxed(b"DKIM-Signature", tags.encode()).removesuffix(
        b"\r\n"
    )
    signature = base64.b64encode(_signature(key, signed_headers)).decode()
    folded = "\r\n ".join(signature[at : at + 72] for at in range(0, len(signature), 72))
    return f"DKIM-Signature: {tags}{folded}\r\n".encode() + message


# -------------------------------------------------------------------------------- keys
def new_key(*, ed25519: bool = False) -> str:
    """Return a new private key in PEM."""
    key: PrivateKey = Ed25519PrivateKey.generate() if ed25519 else generate_private_key(65537, RSA_KEY_BITS)
    kind = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


def check_key(dkim: DkimKey) -> None:
    """Raise Refused for a key, domain or selector that no verifier would accept."""
    for kind, name in (("domain", dkim.domain), ("selector", dkim.selector)):
        if not _NAME.match(name) or len(name) > 200:
            raise Refused(f"{name}: not a {kind}")
    try:
        key = serialization.load_pem_private_key(dkim.pem.encode(), None)
    except (ValueError, TypeError) as error:
        raise Refused("the key is no private key in PEM without a password") from error
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise Refused("the key is neither RSA nor Ed25519")
    if isinstance(key, RSAPrivateKey) and key.key_size < RSA_KEY_BITS:
        raise Refused(f"the key has {key.key_size} bits; verifiers want {RSA_KEY_BITS}")


def dns_record(dkim: DkimKey) -> str:
    """Return the DNS record that publishes the key, as a line of a zone file."""
    key = _key(dkim.pem)
    public = key.public_key()
    if isinstance(key, RSAPrivateKey):
        kind, form = "rsa", serialization.PublicFormat.SubjectPublicKeyInfo
        raw = public.public_bytes(serialization.Encoding.DER, form)
    else:
        kind, raw = "ed25519", public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    value = f"v=DKIM1; k={kind}; p={base64.b64encode(raw).decode()}"
    # A string of a TXT record has at most 255 bytes; verifiers join several.
    strings = " ".join(f'"{value[at : at + 250]}"' for at in range(0, len(value), 250))
    return f"{dkim.selector}._domainkey.{dkim.domain}. IN TXT {strings}"


@functools.lru_cache(maxsize=256)
def _key(pem: str) -> PrivateKey:
    # Stored keys were checked when they were added; checking an RSA key's primes takes as long as a hundred signatures.
    key = serialization.load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, RSAPrivateKey | Ed25519PrivateKey)
    return key


def _signature(key: PrivateKey, data: bytes) -> bytes:
    if isinstance(key, RSAPrivateKey):
        return key.sign(data, PKCS1v15(), hashes.SHA256())
    # RFC 8463 §3: the hash is signed.
    return key.sign(hashlib.sha256(data).digest())


# -------------------------------------------------------------------- canonical forms
def _canonical_headers(head: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield each header's name in lower case and the header in relaxed form."""
    for line in _FOLDS.sub(b"", head).split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            yield name.strip().lower().decode("ascii", "replace"), _relaxed(name, value)


def _relaxed(name: bytes, value: bytes) -> bytes:
    """Return a header in relaxed form (RFC 6376 §3.4.2)."""
    return name.strip().lower() + b":" + _SPACES.sub(b" ", _FOLDS.sub(b"", value)).strip() + b"\r\n"


def _canonical_body(body: bytes) -> bytes:
    """Return the body in relaxed form (RFC 6376 §3.4.4)."""
    tidy = _SPACES.sub(b" ", body).replace(b" \r\n", b"\r\n").rstrip(b" ")
    while tidy.endswith(b"\r\n"):
        tidy = tidy.rstrip(b"\r\n")
    return tidy + b"\r\n" if tidy else b""


def _signed_names(present: list[str]) -> list[str]:
    """Return the names for `h=`: each header as often as it occurs, and once more where none may be added."""
    return [name for name in _SIGNED_HEADERS for _ in range(present.count(name) + (name in _OVERSIGNED_HEADERS))]


def _signed_headers(fields: list[tuple[str, bytes]], names: list[str]) -> Iterator[bytes]:
    """Yield the headers in the order of `h=`; of equal names the last first (RFC 6376 §5.4.2)."""
    remaining = list(fields)
    for name in names:
        header = next((field for field in reversed(remaining) if field[0] == name), None)
        if header is not None:
            remaining.remove(header)
            yield header[1]


def _folded_names(names: list[str]) -> str:
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) > 66:
            lines.append("")
        lines[-1] += f"{name}:"
    return "\r\n  ".join(lines).removesuffix(":")
