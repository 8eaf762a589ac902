"""A provider's kind and a webhook key as somebody entered it in; what is wrong with it out, empty for nothing. Pure.

A key that can't be read would refuse every webhook until somebody notices, and the provider may give up before.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from pipeline.errors import InvalidSignatureError
from pipeline.webhooks import keys

_ARN: Final = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}")
_TOKEN: Final = re.compile(r"[!-~]+")


def webhook_key_problem(kind: str, key: str) -> str:
    """Why this can be no webhook key of a provider of this kind."""
    if not key.strip():
        return "it is empty"
    return _KEY_CHECKS.get(kind, _secret)(key)


def _read_by(reader: Callable[[str], object]) -> Callable[[str], str]:
    """As the provider's adapter reads it."""

    def look(key: str) -> str:
        try:
            reader(key)
        except InvalidSignatureError as error:
            return str(error)
        return ""

    return look


def _ses(key: str) -> str:
    return "" if _ARN.fullmatch(key) else "not the ARN of an SNS topic, arn:aws:sns:region:account:name"


def _secret(key: str) -> str:
    """It is compared, or signed with, as it is."""
    return "" if key == key.strip() else "it has white space around it"


def _password(key: str) -> str:
    user, _, password = key.partition(":")
    return _secret(key) if user and password else "user:password wants both"


def _basic(key: str) -> str:
    """Of those who send no token."""
    return _password(key) if ":" in key else "user:password is what it can bring"


def _password_or_token(key: str) -> str:
    if ":" in key:
        return _password(key)
    return _secret(key) or ("" if _TOKEN.fullmatch(key) else "a token is of visible ASCII characters")


_KEY_CHECKS: Final[Mapping[str, Callable[[str], str]]] = {
    "sandbox": _read_by(keys.p256_key),
    "sendgrid": _read_by(keys.p256_key),
    "postal": _read_by(keys.rsa_key),
    "resend": _read_by(keys.svix_secret),
    "ses": _ses,
    "postmark": _basic,
    "mailjet": _basic,
    "sparkpost": _password_or_token,
    "brevo": _password_or_token,
}
"""Those that are more than a secret."""
