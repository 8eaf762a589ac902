"""Kafka's jars: resolved by `jgo`, fetched from Maven Central once, each checked against its pinned SHA-256."""

import hashlib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pipeline.devstack.servers.process import StartupFailed

KAFKA_VERSION: Final = "4.3.1"
KAFKA_ARTIFACT: Final = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.slf4j:slf4j-simple:1.7.36"
JAR_HASHES_FILE: Final = Path(__file__).with_name("kafka-jars.sha256")


def fetch_classpath() -> str:
    """The Java class path of a broker.

    Raises NotStarted where a jar can't be fetched or is not the one we tested.
    """
    found = _resolve()
    if wrong := mismatched_jars(found, _pins()):
        raise StartupFailed(
            f"Kafka's jars are not the ones that were tested: {', '.join(wrong)}. A download that broke off looks "
            f"like this, too: remove {found[0].parent} and ~/.m2/repository/org/apache/kafka and try again"
        )
    return os.pathsep.join(map(str, found))


def mismatched_jars(found: Iterable[Path], pins: dict[str, str]) -> list[str]:
    """The names of jars that are missing, too many, or have another content."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
    return sorted(name for name in digests.keys() | pins.keys() if digests.get(name) != pins.get(name))


def _pins() -> dict[str, str]:
    lines = JAR_HASHES_FILE.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _resolve() -> list[Path]:
    with warnings.catch_warnings():
        # Where there is no login session, platformdirs warns about a folder that nobody here uses.
        warnings.simplefilter("ignore")
        import jgo  # noqa: PLC0415  only who embeds pays for it

        try:
            return sorted((Path(jar) for jar in jgo.build(KAFKA_ARTIFACT).all_jars), key=lambda path: path.name)
        except Exception as error:  # whatever a resolver raises, the operator's next step is the same
            raise StartupFailed(
                f"Kafka {KAFKA_VERSION} could not be fetched from Maven Central: {error}. Check the network, "
                "or name a Kafka of your own in KAFKA_BOOTSTRAP"
            ) from error
