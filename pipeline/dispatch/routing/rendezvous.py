"""Rank the providers of a brand for an email by weighted rendezvous hashing. Pure; called by the provider router.

Each pair of email and provider has a fixed weighted score, and the highest wins. So the choice is the same in every
process and at every attempt, shares follow the weights, and when a provider is added or removed, only the emails that
move to or from it change. (Schindelhauer and Schomaker, *Weighted distributed hash tables*, 2005.)
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from topics.record import EmailId

_STEPS: Final = 2.0**53


@dataclass(frozen=True, slots=True)
class Route:
    """A provider of a brand, and its share of the brand's mail relative to the other routes."""

    provider: str
    weight: float


def ranked_providers(email_id: EmailId, routes: Sequence[Route]) -> list[str]:
    """Return the providers of ``routes``, the preferred one of this email first."""
    ordered = sorted(routes, key=lambda route: (_score(email_id, route), route.provider), reverse=True)
    return [route.provider for route in ordered]


def _score(email_id: EmailId, route: Route) -> float:
    digest = hashlib.blake2b(f"{email_id}/{route.provider}".encode(), digest_size=8).digest()
    # 53 bits plus a half: a double holds them exactly, and the draw is never 0 or 1, so its logarithm is finite and
    # not 0.
    draw = ((int.from_bytes(digest, "big") >> 11) + 0.5) / _STEPS
    return -route.weight / math.log(draw)
