"""The peer for Faust: events folded into states in a table, as its documentation shows it, with our codec.

https://faust-streaming.github.io/faust/userguide/tables.html: an agent, `async for`, a table on RocksDB, and only the
settings that the documentation asks for. It loses data when it is killed, which does not happen here.
"""

import os
from typing import Any

import faust
from faust.serializers import codecs

from pipeline.worker.fold import evolve
from topics.codec import decode, encode
from topics.events import DeliveryEvent
from topics.registry import DELIVERY_EVENTS, EMAIL_STATES


class Wire(codecs.Codec):
    """The codec of events, registered as https://faust-streaming.github.io/faust/userguide/models.html says."""

    def _loads(self, s: bytes) -> Any:
        return decode(DELIVERY_EVENTS, s)


codecs.register("delivery-event", Wire())

app = faust.App(
    os.environ["PEER_GROUP"],
    broker=f"kafka://{os.environ['PEER_BOOTSTRAP']}",
    store="rocksdb://",
    datadir=os.environ["PEER_FOLDER"],
    topic_partitions=int(os.environ["PEER_PARTITIONS"]),
)
events = app.topic(os.environ["PEER_TOPIC"], key_type=bytes, value_serializer="delivery-event")
states = app.Table("states", key_type=str, value_type=bytes)


@app.agent(events)
async def fold(stream: faust.StreamT[DeliveryEvent]) -> None:
    """Fold each event into the state of its email."""
    async for event in stream:
        stored = states.get(event.email_id)
        before = None if stored is None else decode(EMAIL_STATES, stored)
        states[event.email_id] = encode(EMAIL_STATES, evolve(before, event))


if __name__ == "__main__":
    app.main()
