"""An email and a brand's routes in, the order of providers for it out. Pure.

Weighted rendezvous hashing: each (email, provider) has a fixed draw, weighted; the highest wins. So the choice is
the same in every process and at every attempt, shares follow the weights, and when a provider goes or comes, only the
emails that were or will be its own move. (Schindelhauer and Schomaker, *Weighted distributed hash tables*, 2005.)
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
    """A way out, and how much of a brand's mail shall take it."""

    provider: str
    weight: float


def ranked_providers(email_id: EmailId, routes: Sequence[Route]) -> list[str]:
    """The providers, the one that the email belongs to first."""
    ordered = sorted(routes, key=lambda route: (_score(email_id, route), route.provider), reverse=True)
    return [route.provider for route in ordered]


def _score(email_id: EmailId, route: Route) -> float:
    digest = hashlib.blake2b(f"{email_id}/{route.provider}".encode(), digest_size=8).digest()
    # 53 bits, never 0 and never 1: a double holds them exactly, and the logarithm is finite and not 0.
    draw = ((int.from_bytes(digest, "big") >> 11) + 0.5) / _STEPS
    return -route.weight / math.log(draw)
