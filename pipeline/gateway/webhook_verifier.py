"""A request and its provider's row in; nothing out where it is the provider's and fresh, else Forged."""

import asyncio

import msgspec

from pipeline.admin import Provider
from pipeline.errors import Recoverable
from pipeline.gateway.certificates import Visits
from pipeline.gateway.state import World
from pipeline.gateway.webhook_log import Tokens
from pipeline.gateway.webhook_record import BODY_MAX
from pipeline.webhooks.base import Adapter, Incoming
from pipeline.webhooks.providers.registry import ONCE, SUBSCRIBING
from topics.record import Millis


class NoKeys(Recoverable):
    """No webhook key is set for this provider; `mailfold providers rotate` sets one."""


class Verifier:
    """What an adapter can't do itself: fetch a certificate, remember a token, confirm a subscription."""

    def __init__(self, world: World) -> None:
        self._rt = world.rt
        self._visits = Visits(world.connector)
        self._tokens = Tokens(world.rt.pool)

    async def verify(self, row: Provider, reader: Adapter, incoming: Incoming) -> None:
        """Raises Forged; NoKeys, Unreachable and AWAY, all of which mean: not now."""
        if not row.webhook_keys:
            # Not the provider's fault: it shall repeat until somebody has set a key.
            raise NoKeys
        now, fresh_s = self._rt.clock(), max(self._rt.settings.webhook_max_age, reader.HORIZON_S)
        certified = await self._certified(row, incoming, now, fresh_s)
        if len(incoming.body) > BODY_MAX:
            await asyncio.to_thread(reader.verify, certified, row.webhook_keys, now, fresh_s)
        else:
            reader.verify(certified, row.webhook_keys, now, fresh_s)
        if (once := ONCE.get(row.kind)) is not None:
            token, digest = once.token(incoming)
            await self._tokens.claim(row.provider, token, digest, now, fresh_s)

    async def confirmed(self, row: Provider, incoming: Incoming) -> bool:
        """Whether an authentic request only asked to confirm a subscription, which is done then. Raises Unreachable."""
        asks = SUBSCRIBING.get(row.kind)
        url = asks.confirmation_url(incoming) if asks is not None else None
        if url is None:
            return False
        await self._visits.confirm(url)
        return True

    async def _certified(self, row: Provider, incoming: Incoming, now: Millis, fresh_s: int) -> Incoming:
        asks = SUBSCRIBING.get(row.kind)
        url = asks.certificate_url(incoming, row.webhook_keys, now, fresh_s) if asks is not None else None
        if url is None:
            return incoming
        return msgspec.structs.replace(incoming, certificate=await self._visits.certificate(url))
