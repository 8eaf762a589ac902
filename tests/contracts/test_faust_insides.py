"""What `streaming/` takes for granted of Faust: a new release that differs fails here, not in production."""

import inspect
from typing import Any

import faust
import pytest
from faust import stores
from faust.stores.rocksdb import Store as FaustStore
from faust.streams import Stream
from faust.transport import drivers
from faust.transport.consumer import Consumer as BaseConsumer
from faust.transport.drivers.aiokafka import Consumer as FaustConsumer

from pipeline.errors import BadSettings, NotOurs
from pipeline.settings import Settings
from pipeline.streaming import store, transport
from pipeline.streaming.flow import FAUST, Flow


def overridden(ours: type[Any]) -> list[str]:
    return [name for name, value in vars(ours).items() if inspect.isfunction(value) and name != "__init__"]


OURS_ALONE = {"is_current", "_follows_on", "read", "write", "_ours", "_write", "_apply"}


@pytest.mark.parametrize(("ours", "theirs"), [(transport.Consumer, FaustConsumer), (store.Store, FaustStore)])
def test_every_method_we_override_is_there_and_takes_what_ours_takes(ours: type[Any], theirs: type[Any]) -> None:
    names = set(overridden(ours)) - OURS_ALONE
    assert len(names) >= 3
    for name in names:
        assert len(inspect.signature(getattr(ours, name)).parameters) == len(
            inspect.signature(getattr(theirs, name)).parameters
        ), name


def test_commits_ask_the_methods_we_override() -> None:
    asked = inspect.getsource(BaseConsumer._filter_committable_offsets)
    assert "self._new_offset(tp)" in asked
    assert "self._should_commit(tp, offset)" in asked
    assert "self._filter_tps_with_pending_acks" in inspect.getsource(BaseConsumer.force_commit)


def test_a_failed_commit_still_counts_as_made_in_faust() -> None:
    """Why `_commit_offsets` is overridden; when Faust mends this, ours can go."""
    source = inspect.getsource(BaseConsumer._commit_offsets)
    assert source.index("did_commit = await self._commit") < source.index("self._committed_offset.update")
    assert "if did_commit:\n            self._committed_offset" not in source


def test_noack_take_still_turns_acks_back_on_at_its_end() -> None:
    """Why `noack` comes first."""
    assert "self.enable_acks = stream_enable_acks" in inspect.getsource(Stream.noack_take)


def test_the_installed_release_is_the_one_that_was_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert faust.__version__ == FAUST
    monkeypatch.setattr(faust, "__version__", "0.99")
    with pytest.raises(BadSettings, match=r"0\.99 is installed; the worker is built for 0\.15\.3"):
        Flow(Settings(data_dir=tmp_path), None)  # type: ignore[arg-type]


def test_the_app_runs_in_the_safe_frame(tmp_path: Any) -> None:
    made = Flow(Settings(data_dir=tmp_path, kafka_bootstrap="a:1, b:2", topic_prefix="x-"), None)  # type: ignore[arg-type]
    conf = made.app.conf
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
    assert drivers.TRANSPORTS.by_name(transport.SCHEME) is transport.Transport
    assert stores.STORES.by_name(store.SCHEME) is store.Store


def test_a_partition_that_is_not_ours_is_neither_read_nor_written(tmp_path: Any) -> None:
    made = Flow(Settings(data_dir=tmp_path, kafka_bootstrap="a:1"), None)  # type: ignore[arg-type]
    states = made.states()
    made.app.finalize()
    with pytest.raises(NotOurs, match="partition 3"):
        states.read(3, [b"k"])
    with pytest.raises(NotOurs, match="partition 3"):
        states.keep(3, {b"k": b"v"}, {("email-states", 3): 7})
