"""A message and a brand's key in, the message with its DKIM signature (RFC 6376, RFC 8463) in front out. Pure.

relaxed/relaxed, which survives what servers do on the way. Written here on `cryptography`, because the
library that Python has for it computes RSA in Python: 6 ms a message, in which nothing else runs. That
library verifies what we sign, in the tests.
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
"""Fewer count as none (RFC 8301); more don't fit every DNS server's answer."""

_SIGNED_HEADERS: Final = (
    *("from", "to", "cc", "reply-to", "subject", "date", "message-id", "list-unsubscribe", "list-unsubscribe-post"),
    *("mime-version", "content-type", "content-transfer-encoding"),
)
_OVERSIGNED_HEADERS: Final = ("from", "to", "cc", "reply-to", "subject", "date", "message-id")
"""Named once more than they are there: whoever adds a second one breaks the signature (RFC 6376 §8.15)."""
_SPACES: Final = re.compile(rb"[ \t]+")
_FOLDS: Final = re.compile(rb"\r\n(?=[ \t])")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"\A{_LABEL}(?:\.{_LABEL})*\Z", re.IGNORECASE)

PrivateKey = RSAPrivateKey | Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class DkimKey:
    """In whose name, and with which key."""

    domain: str
    selector: str
    pem: str = field(repr=False)
    """PKCS #8 or #1."""


def sign(message: bytes, dkim: DkimKey, now: Millis) -> bytes:
    """The message with its signature before everything else."""
    head, _, body = message.partition(b"\r\n\r\n")
    fields = list(_fields(head))
    names = _names([name for name, _ in fields])
    key = _key(dkim.pem)
    algorithm = "rsa-sha256" if isinstance(key, RSAPrivateKey) else "ed25519-sha256"
    body_hash = base64.b64encode(hashlib.sha256(_body(body)).digest()).decode()
    tags = (
        f"v=1; a={algorithm}; c=relaxed/relaxed;\r\n d={dkim.domain}; s={dkim.selector}; t={now // 1000};\r\n"
        f" h={_wrapped(names)};\r\n bh={body_hash};\r\n b="
    )
    covered = b"".join(_covered(fields, names)) + _relaxed(b"DKIM-Signature", tags.encode()).removesuffix(b"\r\n")
    signature = base64.b64encode(_signature(key, covered)).decode()
    folded = "\r\n ".join(signature[at : at + 72] for at in range(0, len(signature), 72))
    return f"DKIM-Signature: {tags}{folded}\r\n".encode() + message


# -------------------------------------------------------------------------------- keys
def new_key(*, ed25519: bool = False) -> str:
    """A new private key, as PEM."""
    made: PrivateKey = Ed25519PrivateKey.generate() if ed25519 else generate_private_key(65537, RSA_KEY_BITS)
    kind = serialization.PrivateFormat.PKCS8
    return made.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode()


def check_key(dkim: DkimKey) -> None:
    """Raise Refused for what no verifier would accept."""
    for what, name in (("domain", dkim.domain), ("selector", dkim.selector)):
        if not _NAME.match(name) or len(name) > 200:
            raise Refused(f"{name}: not a {what}")
    try:
        key = serialization.load_pem_private_key(dkim.pem.encode(), None)
    except (ValueError, TypeError) as error:
        raise Refused("the key is no private key in PEM without a password") from error
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise Refused("the key is neither RSA nor Ed25519")
    if isinstance(key, RSAPrivateKey) and key.key_size < RSA_KEY_BITS:
        raise Refused(f"the key has {key.key_size} bits; verifiers want {RSA_KEY_BITS}")


def dns_record(dkim: DkimKey) -> str:
    """What the domain's DNS has to say, as a line of a zone file."""
    key = _key(dkim.pem)
    public = key.public_key()
    if isinstance(key, RSAPrivateKey):
        kind, form = "rsa", serialization.PublicFormat.SubjectPublicKeyInfo
        raw = public.public_bytes(serialization.Encoding.DER, form)
    else:
        kind, raw = "ed25519", public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    value = f"v=DKIM1; k={kind}; p={base64.b64encode(raw).decode()}"
    # A string of a TXT record has at most 255 bytes; several are put together again.
    strings = " ".join(f'"{value[at : at + 250]}"' for at in range(0, len(value), 250))
    return f"{dkim.selector}._domainkey.{dkim.domain}. IN TXT {strings}"


@functools.lru_cache(maxsize=256)
def _key(pem: str) -> PrivateKey:
    # What is stored was checked when it came; the check of an RSA key's primes takes longer than a hundred signatures.
    key = serialization.load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, RSAPrivateKey | Ed25519PrivateKey)
    return key


def _signature(key: PrivateKey, covered: bytes) -> bytes:
    if isinstance(key, RSAPrivateKey):
        return key.sign(covered, PKCS1v15(), hashes.SHA256())
    # RFC 8463 §3: what is signed is the hash.
    return key.sign(hashlib.sha256(covered).digest())


# -------------------------------------------------------------------- canonical forms
def _fields(head: bytes) -> Iterator[tuple[str, bytes]]:
    """Each header's name in lower case, and the header as it is hashed."""
    for line in _FOLDS.sub(b"", head).split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            yield name.strip().lower().decode("ascii", "replace"), _relaxed(name, value)


def _relaxed(name: bytes, value: bytes) -> bytes:
    """RFC 6376 §3.4.2."""
    return name.strip().lower() + b":" + _SPACES.sub(b" ", _FOLDS.sub(b"", value)).strip() + b"\r\n"


def _body(body: bytes) -> bytes:
    """RFC 6376 §3.4.4."""
    tidy = _SPACES.sub(b" ", body).replace(b" \r\n", b"\r\n").rstrip(b" ")
    while tidy.endswith(b"\r\n"):
        tidy = tidy.rstrip(b"\r\n")
    return tidy + b"\r\n" if tidy else b""


def _names(present: list[str]) -> list[str]:
    """What `h=` lists: each header as often as it is there, and once more where none may be added."""
    return [name for name in _SIGNED_HEADERS for _ in range(present.count(name) + (name in _OVERSIGNED_HEADERS))]


def _covered(fields: list[tuple[str, bytes]], names: list[str]) -> Iterator[bytes]:
    """The headers in the order of `h=`; of several the last first (RFC 6376 §5.4.2), of none nothing."""
    left = list(fields)
    for name in names:
        found = next((field for field in reversed(left) if field[0] == name), None)
        if found is not None:
            left.remove(found)
            yield found[1]


def _wrapped(names: list[str]) -> str:
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) > 66:
            lines.append("")
        lines[-1] += f"{name}:"
    return "\r\n  ".join(lines).removesuffix(":")
