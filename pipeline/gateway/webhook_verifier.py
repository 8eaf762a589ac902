"""A request and its provider's row in; nothing out where it is the provider's and fresh, else Forged."""

import asyncio

import msgspec

from pipeline.admin import Provider
from pipeline.errors import RecoverableError
from pipeline.gateway.certificates import CertificateClient
from pipeline.gateway.state import GatewayState
from pipeline.gateway.webhook_log import WebhookTokenClaims
from pipeline.gateway.webhook_record import RECORD_BODY_MAX_BYTES
from pipeline.webhooks.base import Adapter, WebhookRequest
from pipeline.webhooks.providers.registry import ONE_TIME_TOKEN_ADAPTERS, SUBSCRIPTION_ADAPTERS
from topics.record import Millis


class WebhookKeysMissing(RecoverableError):
    """No webhook key is set for this provider; `mailfold providers rotate` sets one."""


class WebhookVerifier:
    """What an adapter can't do itself: fetch a certificate, remember a token, confirm a subscription."""

    def __init__(self, world: GatewayState) -> None:
        self._rt = world.runtime
        self._visits = CertificateClient(world.connector)
        self._tokens = WebhookTokenClaims(world.runtime.pool)

    async def verify(self, row: Provider, reader: Adapter, incoming: WebhookRequest) -> None:
        """Raises Forged; NoKeys, Unreachable and AWAY, all of which mean: not now."""
        if not row.webhook_keys:
            # Not the provider's fault: it shall repeat until somebody has set a key.
            raise WebhookKeysMissing
        now, fresh_s = self._rt.clock(), max(self._rt.settings.webhook_max_age, reader.HORIZON_S)
        certified = await self._certified(row, incoming, now, fresh_s)
        if len(incoming.body) > RECORD_BODY_MAX_BYTES:
            await asyncio.to_thread(reader.verify, certified, row.webhook_keys, now, fresh_s)
        else:
            reader.verify(certified, row.webhook_keys, now, fresh_s)
        if (once := ONE_TIME_TOKEN_ADAPTERS.get(row.kind)) is not None:
            token, digest = once.token(incoming)
            await self._tokens.claim(row.provider, token, digest, now, fresh_s)

    async def confirm_subscription(self, row: Provider, incoming: WebhookRequest) -> bool:
        """Whether an authentic request only asked to confirm a subscription, which is done then. Raises Unreachable."""
        asks = SUBSCRIPTION_ADAPTERS.get(row.kind)
        url = asks.confirmation_url(incoming) if asks is not None else None
        if url is None:
            return False
        await self._visits.confirm_subscription(url)
        return True

    async def _certified(self, row: Provider, incoming: WebhookRequest, now: Millis, fresh_s: int) -> WebhookRequest:
        asks = SUBSCRIPTION_ADAPTERS.get(row.kind)
        url = asks.certificate_url(incoming, row.webhook_keys, now, fresh_s) if asks is not None else None
        if url is None:
            return incoming
        return msgspec.structs.replace(incoming, certificate=await self._visits.fetch_certificate(url))
