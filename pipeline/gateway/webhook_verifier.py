"""Verification of webhooks with what adapters, which are pure, lack: certificates, used tokens, confirmations.

The webhook routes call it before anything of a webhook is appended.
"""

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
    """Verifies webhooks by the adapters of their providers."""

    def __init__(self, state: GatewayState) -> None:
        self._rt = state.runtime
        self._certificates = CertificateClient(state.connector)
        self._tokens = WebhookTokenClaims(state.runtime.pool)

    async def verify(self, provider: Provider, adapter: Adapter, request: WebhookRequest) -> None:
        """Raise InvalidSignatureError unless the request is the provider's and recent.

        Raise WebhookKeysMissing, ProviderUnreachable or one of ``DATABASE_UNAVAILABLE_ERRORS`` if that can't be
        decided now; the provider has to send it again.
        """
        if not provider.webhook_keys:
            # Answered so that the provider sends it again until an operator has set a key.
            raise WebhookKeysMissing
        now, max_age_s = self._rt.clock(), max(self._rt.settings.webhook_max_age, adapter.HORIZON_S)
        certified = await self._with_certificate(provider, request, now, max_age_s)
        if len(request.body) > RECORD_BODY_MAX_BYTES:
            await asyncio.to_thread(adapter.verify, certified, provider.webhook_keys, now, max_age_s)
        else:
            adapter.verify(certified, provider.webhook_keys, now, max_age_s)
        if (token_adapter := ONE_TIME_TOKEN_ADAPTERS.get(provider.kind)) is not None:
            token, digest = token_adapter.token(request)
            await self._tokens.claim(provider.provider, token, digest, now, max_age_s)

    async def confirm_subscription(self, provider: Provider, request: WebhookRequest) -> bool:
        """Confirm the subscription that a verified request asks for; return False if it asks for none.

        Raise ProviderUnreachable if the confirmation failed.
        """
        subscriptions = SUBSCRIPTION_ADAPTERS.get(provider.kind)
        url = subscriptions.confirmation_url(request) if subscriptions is not None else None
        if url is None:
            return False
        await self._certificates.confirm_subscription(url)
        return True

    async def _with_certificate(
        self, provider: Provider, request: WebhookRequest, now: Millis, max_age_s: int
    ) -> WebhookRequest:
        """Return the request with the certificate that its signature names, if its provider signs with one."""
        subscriptions = SUBSCRIPTION_ADAPTERS.get(provider.kind)
        url = None
        if subscriptions is not None:
            url = subscriptions.certificate_url(request, provider.webhook_keys, now, max_age_s)
        if url is None:
            return request
        return msgspec.structs.replace(request, certificate=await self._certificates.fetch_certificate(url))
