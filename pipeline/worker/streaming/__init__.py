"""Faust made safe: the only room that knows its insides.

What leaves this room is :class:`pipeline.worker.streaming.app.Flow`: sources read in batches, a keyed
store of states, an outlet whose appends are confirmed. Everything that Faust gets wrong is put
right in here, each with its reason: `transport` (commits), `store` (RocksDB), `batches` (acks).
"""
