"""The engines: how each is started, its consumer group, its changelog topic and the format of changelog records."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.peers import toolbox
from bench.peers.states import Unwrap
from pipeline.runtime.environment import environment_of
from pipeline.settings import Settings
from topics.registry import DELIVERY_EVENTS, EMAIL_STATES


@dataclass(frozen=True)
class Arena:
    """The broker, the topics and the settings that all engines share."""

    settings: Settings
    warm_topic: str
    folder: Path
    commit: float
    """Seconds between commits; the defaults of the engines differ, so all get the same value."""

    @property
    def bootstrap(self) -> str:
        """Return the address of the broker."""
        return self.settings.kafka_bootstrap

    @property
    def topic(self) -> str:
        """Return the topic of the events."""
        return self.settings.topic(DELIVERY_EVENTS.name)

    @property
    def partitions(self) -> int:
        """Return the number of partitions of each topic."""
        return self.settings.partitions


Tell = Callable[[str], None]


@dataclass(frozen=True)
class Engine:
    """A stream processor that runs the fold."""

    name: str
    title: str
    command: Callable[[Tell], tuple[str, ...]]
    changelog: Callable[[Arena, str], str]
    """Returns the changelog topic of a consumer group."""
    unwrap: Unwrap = lambda key, value: (key, value)
    group: Callable[[Arena, str], str] = lambda _, run: run
    guarantee: str = ""
    warms_up: bool = False
    ours: bool = False
    goes_by_states: bool = False
    """Whether its progress is read from its changelog, which gets one record per event: Faust's commits can get stuck
    although everything is processed (faust-streaming issue 596)."""

    def env(self, arena: Arena, run: str, folder: Path, *, warm: bool) -> Mapping[str, str]:
        """Return the environment variables of a process."""
        if self.ours:
            settings = arena.settings.model_copy(
                update={"data_dir": folder, "log_level": "WARNING", "quiet_days": 36_500}
            )
            return {**environment_of(settings), "MALLOC_ARENA_MAX": "2"}
        return {
            "PYTHONPATH": str(toolbox.ROOT),
            "PEER_BOOTSTRAP": arena.bootstrap,
            "PEER_TOPIC": arena.topic,
            "PEER_PARTITIONS": str(arena.partitions),
            "PEER_GROUP": self.group(arena, run),
            "PEER_FOLDER": str(folder),
            "PEER_COMMIT": str(arena.commit),
            "PEER_GUARANTEE": self.guarantee,
            "PEER_WARM_TOPIC": arena.warm_topic if self.warms_up and warm else "",
        }


def _faust_state(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    return key.strip(b'"'), value  # Faust encodes keys of type str as JSON


def _quix_state(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    # A changelog key is the key of the message, a bar, and the JSON name under which the state was set.
    return key.rpartition(b"|")[0], value


def _streams(tell: Tell) -> tuple[str, ...]:
    return (*toolbox.java_peer(tell), "Peer")


ENGINES: Final = {
    engine.name: engine
    for engine in (
        Engine(
            "textbook",
            "Faust, textbook",
            lambda _: (
                *(sys.executable, "-m", "bench.peers.textbook", "worker"),
                *("--loglevel", "warn", "--without-web"),
            ),
            lambda _, group: f"{group}-states-changelog",
            unwrap=_faust_state,
            goes_by_states=True,
        ),
        Engine(
            "quix",
            "Quix Streams",
            lambda tell: (str(toolbox.quix_python(tell)), "-m", "bench.peers.quix"),
            lambda arena, group: f"changelog__{group}--{arena.topic}--default",
            unwrap=_quix_state,
        ),
        Engine(
            "streams",
            "Kafka Streams",
            _streams,
            lambda _, group: f"{group}-states-changelog",
            guarantee="at_least_once",
            warms_up=True,
        ),
        Engine(
            "streams-eos",
            "Kafka Streams, exactly once",
            _streams,
            lambda _, group: f"{group}-states-changelog",
            guarantee="exactly_once_v2",
            warms_up=True,
        ),
        Engine(
            "ours",
            "Mailfold",
            lambda _: (sys.executable, "-m", "pipeline", "worker"),
            lambda arena, _: arena.settings.topic(EMAIL_STATES.name),
            group=lambda arena, _: f"{arena.settings.topic_prefix}mailfold",
            ours=True,
        ),
    )
}
