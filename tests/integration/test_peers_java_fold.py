"""The fold of the Java peer against ours: the same events, as nasty as they may be, and the same states."""

import random
import subprocess

import msgspec
import pytest

from bench.peers.toolbox import java_peer
from pipeline.worker.fold import evolve
from topics.codec import decode, encode
from topics.events import BounceClass, DeliveryEvent, EventKind
from topics.record import EmailId
from topics.registry import DELIVERY_EVENTS, EMAIL_STATES
from topics.states import EmailState

# Escapes, controls, characters beyond the BMP and beside it, where UTF-16 and code points order differently.
TEXTS = ("", "a", "ä€", "\U0001f600", "\ue000", "\uffff", '\x00\x1f\x7f\n\t\b\f\r"\\/', "550 5.1.1", "é" * 100)
# BLAKE2b takes 128 bytes at a time.
LENGTHS = (1, 1, 2, 60, 125, 126, 127, 128, 129, 254, 255, 256, 257, 300)
ENHANCED = ("", "5.0.0", "5.1.1", "5.1.7", "5.1.10", "5.2.1", "5.2.2", "4.2.2")


def _event_id(dice: random.Random) -> str:
    if dice.random() < 0.3:
        return dice.choice(("", "e"))  # one id, different contents: a total order decides
    return dice.choice("xy") * dice.choice(LENGTHS) + dice.choice(TEXTS) + str(dice.randrange(50))


def _event(dice: random.Random) -> DeliveryEvent:
    return DeliveryEvent(
        email_id=EmailId(f"e{dice.randrange(5)}"),
        event_id=_event_id(dice),
        kind=dice.choice(list(EventKind)),
        occurred_at=dice.randrange(5) - 2,
        recorded_at=dice.randrange(4),
        provider=dice.choice(TEXTS),
        machine=dice.choice(("", "", "m")),
        # Every adapter says it; who judges without one needs words, and the peer has none.
        bounce_class=dice.choice(list(BounceClass)),
        bounce_type=dice.choice(TEXTS),
        bounce_subtype=dice.choice(TEXTS),
        code=dice.choice((0, 250, 550, 521, 552, -3, 2**62)),
        enhanced=dice.choice(ENHANCED),
        text=dice.choice(TEXTS),
        url=dice.choice(TEXTS),
        user_agent=dice.choice(TEXTS),
        provider_message_id=dice.choice((*TEXTS, str(dice.randrange(30)))),
        native=msgspec.Raw(b'{"a":[1,{"b":null}],"n":1e400,"email_id":"no"}'),
    )


@pytest.mark.timeout(300)  # the first time, its jars are fetched and it is compiled
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_java_folds_what_we_fold(seed: int) -> None:
    dice = random.Random(seed)
    events = [_event(dice) for _ in range(4_000)]
    expected: dict[str, EmailState] = {}
    for event in events:
        expected[event.email_id] = evolve(expected.get(event.email_id), event)
    assert max(len(state.opened.ids) for state in expected.values() if state.opened) == 32
    assert max(len(state.provider_ids) for state in expected.values()) == 16
    lines = b"".join(encode(DELIVERY_EVENTS, event) + b"\n" for event in events)
    done = subprocess.run([*java_peer(print), "Lines"], input=lines, capture_output=True, check=True)
    found: list[EmailState] = [decode(EMAIL_STATES, line) for line in done.stdout.splitlines()]
    assert {state.email_id: state for state in found} == expected
