"""The engines: how each is started, where it keeps its offsets and its changelog, how a changelog record reads."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.peers import toolbox
from bench.peers.states import Unwrap
from pipeline.settings import Settings, environment_of
from topics.registry import DELIVERY_EVENTS, EMAIL_STATES


@dataclass(frozen=True)
class Arena:
    """What all engines share: one broker, one topic."""

    settings: Settings
    warm_topic: str
    folder: Path
    commit: float
    """Seconds between commits; ours and Kafka's own default differ, so that all are given the same."""

    @property
    def bootstrap(self) -> str:
        """The broker."""
        return self.settings.kafka_bootstrap

    @property
    def topic(self) -> str:
        """The events."""
        return self.settings.topic(DELIVERY_EVENTS.name)

    @property
    def partitions(self) -> int:
        """Of each topic."""
        return self.settings.partitions


Tell = Callable[[str], None]


@dataclass(frozen=True)
class Engine:
    """One stream processor with the fold in it."""

    name: str
    title: str
    command: Callable[[Tell], tuple[str, ...]]
    changelog: Callable[[Arena, str], str]
    """Given its group."""
    unwrap: Unwrap = lambda key, value: (key, value)
    group: Callable[[Arena, str], str] = lambda _, run: run
    guarantee: str = ""
    warms_up: bool = False
    ours: bool = False
    goes_by_states: bool = False
    """Its changelog tells how far it is, one record per event: Faust's commits can stick for ever with everything
    processed (faust-streaming issue 596)."""

    def env(self, arena: Arena, run: str, folder: Path, *, warm: bool) -> Mapping[str, str]:
        """What the process is told, its public surface."""
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
    return key.strip(b'"'), value  # a key of text is JSON


def _quix_state(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    # Its changelog's key is the message's key, a bar, and the name under which the state was set, as JSON.
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
