"""Find problems with a webhook key as an operator entered it; `mailfold providers add` and `check` call it.

With a key that cannot be parsed, the gateway would refuse all webhooks until somebody notices, and the provider might
give up before. Nothing here does I/O.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from pipeline.errors import InvalidSignatureError
from pipeline.webhooks import keys

_ARN: Final = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}")
_TOKEN: Final = re.compile(r"[!-~]+")


def webhook_key_problem(kind: str, key: str) -> str:
    """Return why this cannot be a webhook key of a provider of this kind; empty if it can."""
    if not key.strip():
        return "it is empty"
    return _KEY_CHECKS.get(kind, _secret_problem)(key)


def _parser_problem(parse: Callable[[str], object]) -> Callable[[str], str]:
    """Return a check that reports the error of the function with which the adapter parses its keys."""

    def problem(key: str) -> str:
        try:
            parse(key)
        except InvalidSignatureError as error:
            return str(error)
        return ""

    return problem


def _topic_problem(key: str) -> str:
    return "" if _ARN.fullmatch(key) else "not the ARN of an SNS topic, arn:aws:sns:region:account:name"


def _secret_problem(key: str) -> str:
    """Return the problem of a secret, which adapters use without stripping white space."""
    return "" if key == key.strip() else "it has white space around it"


def _password_problem(key: str) -> str:
    user, _, password = key.partition(":")
    return _secret_problem(key) if user and password else "user:password needs both"


def _basic_problem(key: str) -> str:
    """Return the problem of a key for a provider that cannot send tokens."""
    return _password_problem(key) if ":" in key else "this provider can only send user:password"


def _password_or_token_problem(key: str) -> str:
    if ":" in key:
        return _password_problem(key)
    return _secret_problem(key) or ("" if _TOKEN.fullmatch(key) else "a token consists of visible ASCII characters")


_KEY_CHECKS: Final[Mapping[str, Callable[[str], str]]] = {
    "sandbox": _parser_problem(keys.p256_key),
    "sendgrid": _parser_problem(keys.p256_key),
    "postal": _parser_problem(keys.rsa_key),
    "resend": _parser_problem(keys.svix_secret),
    "ses": _topic_problem,
    "postmark": _basic_problem,
    "mailjet": _basic_problem,
    "sparkpost": _password_or_token_problem,
    "brevo": _password_or_token_problem,
}
"""The checks of kinds whose key is not just a secret."""
