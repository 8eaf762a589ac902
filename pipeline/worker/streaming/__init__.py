"""The worker's stream processing on Faust; the only package that depends on Faust's internals.

Other packages use :class:`pipeline.worker.streaming.app.WorkerFlow`: sources read in batches, a keyed store of states
and a producer whose appends are confirmed. The modules here override what Faust does unsafely and say why:
`transport` (commits), `store` (RocksDB), `runs` (acknowledgements).
"""
