"""A corrected mapping over the raw past: states are repaired, nothing counts twice, a second run is idle."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from pipeline.devstack.supervisor import Stack
from pipeline.errors import Refused
from pipeline.operations.rebuild import rebuild
from pipeline.operations.renormalize.preconditions import wait_until_caught_up
from pipeline.operations.renormalize.run import RenormalizeRange, RenormalizeSummary, renormalize
from pipeline.runtime.bootstrap import Runtime, open_runtime
from pipeline.runtime.kafka.log import append_all
from pipeline.runtime.ports import LogEntry
from pipeline.settings import Settings
from pipeline.webhooks.base import EventContext, WebhookRequest
from pipeline.webhooks.providers import registry, sendgrid
from tests.support.command import mailfold_on
from tests.support.echoes import echoed
from tests.support.seeing import on, rows
from topics.acks import Acked
from topics.codec import decode
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.readings import effective_state
from topics.record import EmailId
from topics.registry import DELIVERY_EVENTS, EMAIL_STATES, PROVIDER_ACKS, PROVIDER_WEBHOOKS
from topics.webhooks import RawWebhook

A, B, C, D, E = (EmailId(str(uuid.UUID(int=number))) for number in range(1, 6))
WANTED = RenormalizeRange("main", 0)
NOW = time.time_ns() // 1_000_000


class Corrected:
    """SendGrid's adapter as somebody might have corrected it."""

    HORIZON_S = sendgrid.HORIZON_S

    def verify(self, incoming: WebhookRequest, keys: Sequence[str], now_ms: int, max_age_s: int) -> None:
        sendgrid.verify(incoming, keys, now_ms, max_age_s)

    def split(self, body: bytes, headers: Mapping[str, str]) -> list[bytes]:
        return sendgrid.split(body, headers)

    def normalize(self, event: bytes, context: EventContext) -> DeliveryEvent:
        # A field that was required is not …
        fields = json.loads(event) | {"event": json.loads(event).get("event", "silence")}
        original = sendgrid.normalize(json.dumps(fields).encode(), context)
        # … an unknown mailbox is soft, a block is no bounce at all, and an open's id says of which message it is.
        if original.bounce_type == "blocked":
            return msgspec.structs.replace(original, kind=EventKind.DEFERRED, bounce_class=None)
        if "no such mailbox" in original.text:
            return msgspec.structs.replace(original, bounce_class=BounceClass.SOFT)
        if original.kind is EventKind.OPENED:
            return msgspec.structs.replace(original, event_id=f"{original.event_id}:{original.email_id}")
        return original


def sent(name: str, event: str, email_id: str = "", **more: Any) -> dict[str, Any]:
    payload = {"event": event, "timestamp": 1_700_000_000, "sg_event_id": name, **more}
    return payload | echoed(email_id) if email_id else payload


EVENTS = [
    sent("e1", "bounce", A, type="bounce", reason="550 no such mailbox"),
    sent("e2", "bounce", B, type="blocked", reason="550 not you"),
    sent("e3", "open", C),
    {"timestamp": 1_700_000_000, "sg_event_id": "e4", **echoed(D)},
    sent("e5", "delivered", sg_message_id="known.filter1"),
    sent("e6", "delivered", sg_message_id="unknown.filter1"),
    sent("e7", "click", B),
    sent("e7", "click", B),
]
"""e4 is not understood, until it is."""


def webhook(received_at: int, *events: Any, provider: str = "main") -> LogEntry:
    body = json.dumps(events).encode()
    raw = RawWebhook(webhook_id="w", provider=provider, kind="sendgrid", received_at=received_at, headers=(), body=body)
    return LogEntry(PROVIDER_WEBHOOKS, None, raw)


async def statuses(rt: Runtime) -> dict[str, str]:
    return dict(await rows(rt, "select email_id::text, status from projections.history"))


async def run(rt: Runtime, *, dry_run: bool = False) -> RenormalizeSummary:
    """A run, and all that comes of it."""
    outcome = await renormalize(rt, WANTED, lambda _done, _total: None, dry_run=dry_run)
    await wait_until_caught_up(rt)
    return outcome


AS_TOLD = RenormalizeSummary(webhooks=2, seen=9, same=5, repeats=2, waiting=1, not_understood=1)


async def hear(rt: Runtime) -> None:
    """Webhooks, one of them a repeat in other words and one of another provider; and an ack that an event waits for."""
    ack = Acked(
        email_id=E, event_id="ack", occurred_at=NOW, recorded_at=NOW, provider="main", provider_message_id="known"
    )
    again = sent("e1", "bounce", A, type="bounce", reason="550 no such mailbox, still")
    others = [webhook(NOW + 1, again), webhook(NOW + 2, sent("x", "open", A), provider="another")]
    await append_all(rt.log, [LogEntry(PROVIDER_ACKS, E, ack), *others])
    await wait_until_caught_up(rt)


async def test_corrected_mapping_repairs_states_and_can_be_reverted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_runtime(settings, pool_size=6) as rt:
        await append_all(rt.log, [webhook(NOW, *EVENTS)])
        with pytest.raises(Refused, match=r"worker is behind by 1 records of provider-webhooks"):
            await wait_until_caught_up(rt, timeout_s=0)
        async with Stack(settings, roles=["worker", "dispatch", "project"]):
            await hear(rt)
            assert await statuses(rt) == {A: "bounced", B: "bounced", C: "opened", E: "delivered"}
            assert await run(rt) == AS_TOLD

            with monkeypatch.context() as corrected:
                corrected.setitem(registry.ADAPTERS, "sendgrid", Corrected())
                await the_past_is_repaired(rt)

            back = await run(rt)
            assert (back.changed, back.retracted, back.new, back.not_understood) == (3, 1, 0, 1)
            assert await statuses(rt) == {A: "bounced", B: "bounced", C: "opened", D: "unknown", E: "delivered"}
            words = ("renormalize", "--provider", "main", "--since", "1h", "--json")
            said = await mailfold_on(settings, *words)
            assert said.code == 0, said.err
            assert json.loads(said.out) == msgspec.to_builtins(AS_TOLD)
            # The tables that grew through all this are those that the log gives.
            assert (await rebuild(rt, lambda _done, _total: None, check=True)).differences == []


async def the_past_is_repaired(rt: Runtime) -> None:
    event_count = len(await on(rt.settings, DELIVERY_EVENTS))
    expected = RenormalizeSummary(webhooks=2, seen=9, same=2, repeats=2, new=2, changed=2, retracted=1, waiting=1)
    assert await run(rt, dry_run=True) == expected
    assert len(await on(rt.settings, DELIVERY_EVENTS)) == event_count
    assert await run(rt) == expected
    assert await statuses(rt) == {A: "bounced", B: "clicked", C: "opened", D: "unknown", E: "delivered"}
    assert await _hard_bounces(rt) == 0
    query = "select count(*) from projections.timeline where kind = 'opened' and email_id = %s"
    assert await rows(rt, query, C) == [(1,)]
    event_count += 5
    assert len(await on(rt.settings, DELIVERY_EVENTS)) == event_count
    assert await run(rt) == RenormalizeSummary(webhooks=2, seen=9, same=6, repeats=2, waiting=1)
    assert len(await on(rt.settings, DELIVERY_EVENTS)) == event_count


async def _hard_bounces(rt: Runtime) -> int:
    states = await rows(rt, "select state from projections.history")
    effective = [effective_state(decode(EMAIL_STATES, state)) for (state,) in states]
    return sum(state.bounce is not None and state.bounce.bounce_class is BounceClass.HARD for state in effective)
