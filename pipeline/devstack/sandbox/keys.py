"""The sandbox's signing key: a data folder in; its public key and signatures in SendGrid's form out."""

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
    """The sandbox's public key: base64 of its DER SubjectPublicKeyInfo, as SendGrid's settings page shows it.

    The first call makes the key. Raises BadSettings for a file that holds no such key.
    """
    der = private_key(data_dir).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def private_key(data_dir: Path) -> ec.EllipticCurvePrivateKey:
    """The ECDSA P-256 key in ``data_dir/sandbox/``, made (for its owner's eyes only) where there is none."""
    path = data_dir / "sandbox" / "webhook-key.pem"
    if not path.exists():
        _make(path)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidSettings(f"{path}: not an ECDSA key; remove it and a new one is made")
    return key


def sign(key: ec.EllipticCurvePrivateKey, timestamp: str, body: bytes) -> str:
    """The signature header's value: base64 of the DER ECDSA-SHA256 signature over timestamp and raw body."""
    return base64.b64encode(key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()


def _make(path: Path) -> None:
    """Write aside, then link: of two processes that start together, both read the one key that won."""
    make_private_folder(path.parent)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(open_private(aside, os.O_WRONLY | os.O_EXCL), "wb") as output:
        output.write(pem)
    try:
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink()
