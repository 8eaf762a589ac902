"""What `streaming/` takes for granted of Faust: a new release that differs fails here, not in production."""

import inspect
import stat
from typing import Any, cast

import faust
import pytest
from aiokafka import AIOKafkaConsumer
from faust import stores
from faust.assignor.partition_assignor import PartitionAssignor
from faust.stores.rocksdb import RocksDBOptions
from faust.stores.rocksdb import Store as FaustStore
from faust.streams import Stream
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport import drivers
from faust.transport.consumer import Consumer as BaseConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, ConsumerRebalanceListener
from faust.transport.drivers.aiokafka import Consumer as FaustConsumer
from faust.types import TP
from faust.types.settings import Settings as FaustSettings
from mode import Service

from pipeline.errors import InvalidSettings, PartitionNotAssigned, TopicMismatch
from pipeline.settings import Settings
from pipeline.worker.streaming import fetch as fetching
from pipeline.worker.streaming import store, transport
from pipeline.worker.streaming.app import FAUST_VERSION, WorkerFlow


def overridden(ours: type[Any]) -> list[str]:
    return [name for name, value in vars(ours).items() if inspect.isfunction(value) and name != "__init__"]


OURS_ALONE = {
    *("claim", "discard", "mark_committed", "_continues", "_seek_back"),
    *("_rewind_lost_batches", "_discard_slow_batches"),
    *("read", "write", "next_states", "scan_position", "save_scan_position", "compact_removed", "size", "holds"),
    *("partitions", "file_bytes", "discard_if_ahead", "discard_if_foreign", "_remove"),
    *("_assigned", "_write", "_apply", "_remove_if_corrupt"),
}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (transport.BatchConsumer, FaustConsumer),
        (fetching.BatchConsumerThread, AIOKafkaConsumerThread),
        (store.StateStore, FaustStore),
        (store.StateStoreOptions, RocksDBOptions),
    ],
)
def test_every_overridden_method_exists_with_the_same_parameters(ours: type[Any], theirs: type[Any]) -> None:
    names = set(overridden(ours)) - OURS_ALONE
    assert names
    for name in names:
        assert len(inspect.signature(getattr(ours, name)).parameters) == len(
            inspect.signature(getattr(theirs, name)).parameters
        ), name


def test_commits_call_the_overridden_methods() -> None:
    source = inspect.getsource(BaseConsumer._filter_committable_offsets)
    assert "self._new_offset(tp)" in source
    assert "self._should_commit(tp, offset)" in source
    assert "self._filter_tps_with_pending_acks" in inspect.getsource(BaseConsumer.force_commit)


def test_faust_still_counts_a_failed_commit_as_done() -> None:
    """Why `_commit_offsets` is overridden; when Faust mends this, ours can go."""
    source = inspect.getsource(BaseConsumer._commit_offsets)
    assert source.index("did_commit = await self._commit") < source.index("self._committed_offset.update")
    assert "if did_commit:\n            self._committed_offset" not in source


def test_faust_does_not_look_into_message_values() -> None:
    """A batch is one message, because Faust's work between fetch and agent is done per message."""
    drain = inspect.getsource(BaseConsumer._drain_messages)
    assert "async for tp, message in ait" in drain
    assert "if r_offset is None or offset >= r_offset" in drain  # a run's offset is its last: never below its first
    fetch = inspect.getsource(BaseConsumer.getmany)
    assert "self._wait_next_records(timeout)" in fetch
    assert "to_message(tp, record)" in fetch
    assert "await self._getmany(" in inspect.getsource(BaseConsumer._wait_next_records)


def test_faust_can_still_lose_batches_between_fetch_and_agent() -> None:
    """Why `take` checks that a run follows on."""
    assert "self.flow_control.clear)()" in inspect.getsource(faust.App._on_partitions_revoked)
    assert "message.generation_id != self.app.consumer_generation_id" in inspect.getsource(Stream._py_aiter)


def test_recovery_reads_end_offsets_after_the_assignment() -> None:
    """Why fencing in `on_partitions_assigned` comes before it; and why a run's offset is its last."""
    assert "self._on_partitions_assigned" in inspect.getsource(BaseConsumer.on_partitions_assigned)
    assert "self.tables.on_rebalance" in inspect.getsource(faust.App._on_partitions_assigned)
    assert "await consumer.highwaters(*tps)" in inspect.getsource(Recovery._build_highwaters)
    assert "tp: value - 1" in inspect.getsource(Recovery._build_highwaters)
    slurp = inspect.getsource(Recovery._slurp_changelogs.fun)
    assert "offsets[tp] = offset" in slurp
    assert "if len(buf) >= bufsize" in slurp
    assert "recovery_buffer_size == 1" in inspect.getsource(Recovery._restart_recovery.fun)


def test_faust_has_flags_for_rebalance_and_recovery() -> None:
    """The expiry scan pauses meanwhile: it would read old states as the current ones."""
    assert "self.rebalancing = True" in inspect.getsource(faust.App.on_rebalance_start)
    assert "self.rebalancing = False" in inspect.getsource(faust.App.on_rebalance_end)
    assert "thread.app.on_rebalance_start()" in inspect.getsource(ConsumerRebalanceListener.on_partitions_revoked)
    completed = inspect.getsource(Recovery.on_recovery_completed)
    assert completed.index("consumer.perform_seek()") < completed.index("self.app.on_rebalance_end()")
    assert "self.app.in_recovery = True" in inspect.getsource(Recovery._set_recovery_started)


def test_faust_has_what_the_observer_reads() -> None:
    """Neither may be created by reading it: Faust makes both when it starts."""
    assert "if self._consumer is None" in inspect.getsource(cast("Any", faust.App.consumer).fget)
    assert "if self._recovery is None" in inspect.getsource(cast("Any", TableManager.recovery).fget)
    assert "self._unacked_messages = WeakSet()" in inspect.getsource(BaseConsumer.__init__)
    assert "highwater - offsets[tp]" in inspect.getsource(Recovery.active_remaining)
    assert ".highwater(tp)" in inspect.getsource(AIOKafkaConsumerThread.highwater)


def test_recovery_ends_silently_after_a_request_timeout() -> None:
    """Our requests end earlier: `_wait` raises ServiceStopped after it, and no later assignment is recovered."""
    assert "return WaitResults([], [], True)" in inspect.getsource(Service.wait_first)
    assert "if wait_result.stopped:" in inspect.getsource(Recovery._wait)
    restart = inspect.getsource(Recovery._restart_recovery.fun)
    assert "except ServiceStopped as exc" in restart
    assert "break  # service was stopped" in restart
    assert FaustSettings.SETTINGS["broker_request_timeout"].default > transport.BROKER_TIMEOUT_S


def test_faust_assigns_equal_partition_numbers_together() -> None:
    """An email's facts and its state meet in one worker; :meth:`Lanes.take_over` refuses anything else."""
    assert "_group_co_subscribed" in inspect.getsource(PartitionAssignor._get_copartitioned_groups)


def test_aiokafka_still_reads_overridden_settings_at_start() -> None:
    """`BatchConsumerThread` sets these on the consumer that Faust created."""
    started = inspect.getsource(AIOKafkaConsumer.start)
    assert "isolation_level=self._isolation_level" in started
    assert "fetch_max_wait_ms=self._fetch_max_wait_ms" in started


def test_installed_faust_is_the_supported_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert faust.__version__ == FAUST_VERSION
    monkeypatch.setattr(faust, "__version__", "0.99")
    with pytest.raises(InvalidSettings, match=r"0\.99 is installed; the worker is built for 0\.15\.3"):
        WorkerFlow(Settings(data_dir=tmp_path), None)  # type: ignore[arg-type]


def test_app_has_safe_settings(tmp_path: Any) -> None:
    flow = WorkerFlow(Settings(data_dir=tmp_path, kafka_bootstrap="a:1, b:2", topic_prefix="x-"), None)  # type: ignore[arg-type]
    conf = flow.app.conf
    assert conf.id == "x-mailfold"
    assert [str(url) for url in conf.broker] == ["mailfold-kafka://a:1", "mailfold-kafka://b:2"]
    assert conf.agent_supervisor.__name__ == "CrashingSupervisor"
    assert (conf.web_enabled, conf.topic_allow_declare, conf.topic_disable_leader) == (False, False, True)
    assert conf.table_standby_replicas == 0
    assert (conf.broker_commit_interval, conf.broker_session_timeout, conf.broker_heartbeat_interval) == (0.5, 10, 3)
    assert conf.processing_guarantee.name == "AT_LEAST_ONCE"


def test_faust_finds_our_transport_and_our_store() -> None:
    transport.register()
    store.register()
    assert drivers.TRANSPORTS.by_name(transport.SCHEME) is transport.BatchTransport
    assert stores.STORES.by_name(store.SCHEME) is store.StateStore


def test_unassigned_partition_is_neither_read_nor_written(tmp_path: Any) -> None:
    flow = WorkerFlow(Settings(data_dir=tmp_path, kafka_bootstrap="a:1"), None)  # type: ignore[arg-type]
    flow.app.finalize()
    with pytest.raises(PartitionNotAssigned, match="partition 3"):
        flow.writers[3]
    table = flow.app.tables["email-states"].data
    with pytest.raises(PartitionNotAssigned, match="partition 3"):
        table.read(3, [b"k"])
    with pytest.raises(PartitionNotAssigned, match="partition 3"):
        table.write(3, {b"k": b"v"}, 7)


def test_environment_variables_do_not_change_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """To Faust, variables win over arguments: a BROKER_URL meant for others, or a platform's WEB_PORT=tcp://…"""
    plain = WorkerFlow(Settings(data_dir=tmp_path, kafka_bootstrap="a:1"), None).app.conf  # type: ignore[arg-type]
    named = {param.env_name: name for name, param in plain.SETTINGS.items() if param.env_name}
    assert {"BROKER_URL", "WEB_PORT", "AGENT_SUPERVISOR", "APP_VERSION", "PROCESSING_GUARANTEE"} <= named.keys()
    for variable in named.keys() - {"APP_ENV_PREFIX"}:  # would give the others other names
        monkeypatch.setenv(variable, "tcp://10.0.0.1:80")
    moved = WorkerFlow(Settings(data_dir=tmp_path, kafka_bootstrap="a:1"), None).app.conf  # type: ignore[arg-type]
    assert (moved.broker, moved.agent_supervisor, moved.appdir) == (plain.broker, plain.agent_supervisor, plain.appdir)


def test_state_folder_is_private(tmp_path: Any) -> None:
    WorkerFlow(Settings(data_dir=tmp_path, kafka_bootstrap="a:1"), None)  # type: ignore[arg-type]
    assert stat.S_IMODE((tmp_path / "worker").stat().st_mode) == 0o700


async def test_split_copartitioned_topics_raise(tmp_path: Any) -> None:
    flow = WorkerFlow(Settings(data_dir=tmp_path, kafka_bootstrap="a:1"), None)  # type: ignore[arg-type]
    with pytest.raises(TopicMismatch, match=r"partitions \[1\] are assigned to different workers"):
        await flow.writers.take_over({TP("send-requests", 1), TP("email-states", 1), TP("provider-webhooks", 0)})
