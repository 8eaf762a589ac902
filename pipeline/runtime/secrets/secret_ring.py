"""Hold the installation's secrets: the first signs and seals, all verify and unseal, so that each can be replaced.

`MAILFOLD_SECRETS` lists them as `id:secret`; `MAILFOLD_SECRET` and `MAILFOLD_SECRET_PREVIOUS` are its older form. Every
role calls it. See docs/how-to/rotate-secrets.md.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

from pipeline.errors import InvalidSettings
from pipeline.settings import Settings

MIN_SECRET_CHARS: Final = 32
MAX_SECRETS: Final = 8
"""More secrets would only make each forged token dearer to refuse."""
PRESENT_ID: Final = "present"
PREVIOUS_ID: Final = "previous"
ADDRESSES_ID: Final = "addresses"
"""The entry of the secret under which addresses are hashed; it neither signs nor seals."""
FINGERPRINT_CHARS: Final = 16
_ENTRY: Final = re.compile(r"([A-Za-z0-9_-]{1,32}):(\S+)")


@dataclass(frozen=True)
class NamedSecret:
    """One secret with the name by which operators tell it from others."""

    id: str
    value: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that tell secrets apart and do not help to guess one."""
        return hmac.digest(self.value.encode(), b"fingerprint\x01", hashlib.sha256).hex()[:FINGERPRINT_CHARS]


class SecretRing:
    """The secrets of an installation, and the one under which addresses are hashed."""

    def __init__(self, *secrets: NamedSecret) -> None:
        """Make a ring, the secret that signs first; without one named ``addresses`` that one hashes addresses, too."""
        self.secrets = tuple(secret for secret in secrets if secret.id != ADDRESSES_ID)
        self.address = next((secret for secret in secrets if secret.id == ADDRESSES_ID), secrets[0])

    @classmethod
    def of(cls, *values: str) -> "SecretRing":
        """Return a ring of unnamed secrets, the one that signs first."""
        return cls(*[NamedSecret(str(number), value) for number, value in enumerate(values, 1)])

    @property
    def values(self) -> tuple[str, ...]:
        """Return the secrets, the one that signs first."""
        return tuple(secret.value for secret in self.secrets)

    @property
    def signing(self) -> NamedSecret:
        """Return the secret that signs and seals."""
        return self.secrets[0]

    def __repr__(self) -> str:
        """Return the ids of the secrets, and none of their values."""
        return f"SecretRing({', '.join(secret.id for secret in self.secrets)})"


def has_secret(settings: Settings) -> bool:
    """Return whether any secret is set, in the newer or the older form."""
    return bool(settings.secrets.get_secret_value() or settings.secret.get_secret_value())


def secret_ring(settings: Settings) -> SecretRing:
    """Return the ring of the settings. Raise InvalidSettings, which never repeats any part of a secret."""
    if not (text := settings.secrets.get_secret_value()):
        return SecretRing(*_older_form(settings))
    if settings.secret.get_secret_value() or settings.secret_previous.get_secret_value():
        raise InvalidSettings(
            "MAILFOLD_SECRETS: replaces MAILFOLD_SECRET and MAILFOLD_SECRET_PREVIOUS; list them in it and unset them"
        )
    return SecretRing(*parse_secrets(text))


def parse_secrets(text: str) -> tuple[NamedSecret, ...]:
    """Return the secrets of a text such as ``2026b:… 2026a:…``, apart by blanks, commas or line ends.

    Raise InvalidSettings, which names an entry by its place.
    """
    entries = re.split(r"[\s,]+", text.strip())
    if len(entries) > MAX_SECRETS:
        raise InvalidSettings(f"MAILFOLD_SECRETS: {len(entries)} secrets; at most {MAX_SECRETS}")
    secrets: list[NamedSecret] = []
    for place, entry in enumerate(entries, 1):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise InvalidSettings(
                f"MAILFOLD_SECRETS: entry {place} is not id:secret, with letters, digits, _ and - in the id"
            )
        _check_length(f"MAILFOLD_SECRETS: entry {place} ({match[1]})", match[2])
        secrets.append(NamedSecret(match[1], match[2]))
    if len({secret.id for secret in secrets}) < len(secrets):
        raise InvalidSettings("MAILFOLD_SECRETS: two entries have the same id")
    signing = [secret.value for secret in secrets if secret.id != ADDRESSES_ID]
    if not signing or len(set(signing)) < len(signing):
        raise InvalidSettings("MAILFOLD_SECRETS: no secret that signs, or the same one twice")
    if 1 < len(signing) == len(secrets):
        raise InvalidSettings(
            "MAILFOLD_SECRETS: several secrets need an entry addresses:…, the secret under which suppressed addresses "
            "are hashed; it is the one that was MAILFOLD_SECRET until now"
        )
    return tuple(secrets)


def _older_form(settings: Settings) -> tuple[NamedSecret, ...]:
    present, previous = settings.secret.get_secret_value(), settings.secret_previous.get_secret_value()
    _check_length("MAILFOLD_SECRET", present)
    if not previous:
        return (NamedSecret(PRESENT_ID, present),)
    _check_length("MAILFOLD_SECRET_PREVIOUS", previous, ", or empty")
    return NamedSecret(PRESENT_ID, present), NamedSecret(PREVIOUS_ID, previous)


def _check_length(variable: str, secret: str, alternative: str = "") -> None:
    if len(secret) < MIN_SECRET_CHARS:
        raise InvalidSettings(
            f"{variable}: at least {MIN_SECRET_CHARS} characters{alternative}; the same for every role"
        )
