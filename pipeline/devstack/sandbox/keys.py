"""The key with which the sandbox signs webhooks, in SendGrid's form; used by the sandbox and by whatever trusts it."""

import base64
import os
import secrets
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from pipeline.errors import InvalidSettings
from pipeline.runtime.private_files import make_private_folder, open_private

SIGNATURE_HEADER: Final = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP_HEADER: Final = "X-Twilio-Email-Event-Webhook-Timestamp"


def public_key(data_dir: Path) -> str:
    """Return the public key: base64 of its DER SubjectPublicKeyInfo, as SendGrid's settings page shows it.

    The first call creates the key. Raises InvalidSettings for a file that holds no such key.
    """
    der = private_key(data_dir).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def private_key(data_dir: Path) -> ec.EllipticCurvePrivateKey:
    """Return the ECDSA P-256 key in ``data_dir/sandbox/``; create it, readable by its owner only, if there is none."""
    path = data_dir / "sandbox" / "webhook-key.pem"
    if not path.exists():
        _create(path)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidSettings(f"{path}: not an ECDSA key; remove it and a new one is made")
    return key


def sign(key: ec.EllipticCurvePrivateKey, timestamp: str, body: bytes) -> str:
    """Return the signature header's value: base64 of the DER ECDSA-SHA256 signature over timestamp and raw body."""
    return base64.b64encode(key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()


def _create(path: Path) -> None:
    """Create the key file by linking a finished one, so that processes that start together share the first key."""
    make_private_folder(path.parent)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    temporary_path = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(open_private(temporary_path, os.O_WRONLY | os.O_EXCL), "wb") as output:
        output.write(pem)
    try:
        os.link(temporary_path, path)
    except FileExistsError:
        pass
    finally:
        temporary_path.unlink()
