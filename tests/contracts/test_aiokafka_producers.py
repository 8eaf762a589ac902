"""The private parts of aiokafka that we use to know whether a producer or consumer still makes progress."""

import inspect

from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.producer.message_accumulator import MessageAccumulator, MessageBatch
from aiokafka.producer.sender import Sender, SendProduceReqHandler


def test_batches_are_queued_or_in_flight_until_they_are_confirmed() -> None:
    """`oldest_batch_age_s` reads both collections and each batch's time of creation."""
    assert "self._ctime = time.monotonic()" in inspect.getsource(MessageBatch.__init__)
    assert "self._batches = collections.defaultdict(collections.deque)" in inspect.getsource(MessageAccumulator)
    popped = inspect.getsource(MessageAccumulator._pop_batch)
    assert "self._pending_batches.add(batch)" in popped
    assert "self._pending_batches.remove(batch)" in popped


def test_batch_gets_its_number_before_it_can_fail() -> None:
    """Hence a failed batch leaves a gap, and only a batch that never expires may wait for a leader."""
    popped = inspect.getsource(MessageAccumulator._pop_batch)
    assert "increment_sequence_number" in popped
    drained = inspect.getsource(MessageAccumulator.drain_by_nodes)
    assert "if self._batches[tp][0].expired():" in drained
    assert drained.index("batch = self._pop_batch(tp)") < drained.index("batch.failure(exception=err)")
    assert "> self._ttl" in inspect.getsource(MessageBatch.expired)
    assert "MessageBatch(tp, builder, self._batch_ttl, self._linger_time)" in inspect.getsource(
        MessageAccumulator._append_batch
    )
    assert "self._sender._txn_manager is None and batch.expired()" in inspect.getsource(
        SendProduceReqHandler._can_retry
    )


def test_stop_waits_for_the_flush_and_for_requests_under_way() -> None:
    """`close_producer` limits both, then fails what is left."""
    stopped = inspect.getsource(AIOKafkaProducer.stop)
    assert "self._message_accumulator.close()" in stopped
    assert "await self._sender.close()" in stopped
    assert "await self._sender_task" in inspect.getsource(Sender.close)
    assert "self._exception = exception" in inspect.getsource(MessageAccumulator.fail_all)


def test_consumer_fetches_in_one_task_whose_end_nobody_sees() -> None:
    """`get_records` looks at the task, because `getmany` returns nothing after its end."""
    assert "self._fetch_task = create_task(self._fetch_requests_routine())" in inspect.getsource(Fetcher.__init__)
    assert "_fetch_task" not in inspect.getsource(Fetcher.fetched_records)


def test_connections_have_the_clients_request_timeout_until_it_is_changed() -> None:
    """`limit_connecting` sets the client's, and a longer one on each connection that is made."""
    assert "request_timeout_ms=self._request_timeout_ms" in inspect.getsource(AIOKafkaClient._get_conn)
    assert "request_timeout_ms=self._request_timeout_ms" in inspect.getsource(AIOKafkaClient.bootstrap)
    assert "self._request_timeout" in inspect.getsource(AIOKafkaConnection.send)
    assert "self._get_conn(node_id" in inspect.getsource(AIOKafkaClient.ready)
    assert "self._get_conn(node_id" in inspect.getsource(AIOKafkaClient._metadata_update)
