"""The peer for Quix Streams: events folded into states in RocksDB, as its documentation shows it, with our codec.

https://quix.io/docs/quix-streams/processing.html: `apply(stateful=True)`, at least once, state and changelog in bytes
so that nothing is encoded twice. Runs in a virtual environment of its own: its pins are not ours.
"""

import os

from quixstreams import Application, State

from pipeline.worker.fold import evolve
from topics.codec import decode, encode
from topics.registry import DELIVERY_EVENTS, EMAIL_STATES

STATE = "s"


def fold(value: bytes, state: State) -> None:
    """Fold one event into the state of its email."""
    stored = state.get_bytes(STATE)
    before = None if stored is None else decode(EMAIL_STATES, stored)
    state.set_bytes(STATE, encode(EMAIL_STATES, evolve(before, decode(DELIVERY_EVENTS, value))))


def main() -> None:
    """Run until SIGTERM."""
    app = Application(
        broker_address=os.environ["PEER_BOOTSTRAP"],
        consumer_group=os.environ["PEER_GROUP"],
        auto_offset_reset="earliest",
        commit_interval=float(os.environ["PEER_COMMIT"]),
        state_dir=os.environ["PEER_FOLDER"],
        loglevel="WARNING",
    )
    events = app.topic(os.environ["PEER_TOPIC"], value_deserializer="bytes", key_deserializer="bytes")
    app.dataframe(events).apply(fold, stateful=True)
    app.run()


if __name__ == "__main__":
    main()
