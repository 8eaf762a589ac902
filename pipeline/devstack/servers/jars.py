"""Fetch Kafka's jars from Maven Central with `jgo`, and check each against its pinned SHA-256; `kafka.py` calls it."""

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
    """Return the Java class path of a broker.

    Raise StartupFailed where a jar can't be fetched or differs from the tested one.
    """
    jars = _resolve()
    if mismatched := mismatched_jars(jars, _pins()):
        raise StartupFailed(
            f"Kafka's jars are not the ones that were tested: {', '.join(mismatched)}. An incomplete download may be "
            f"the cause: remove {jars[0].parent} and ~/.m2/repository/org/apache/kafka and try again"
        )
    return os.pathsep.join(map(str, jars))


def mismatched_jars(jars: Iterable[Path], pins: dict[str, str]) -> list[str]:
    """Return the names of jars that are missing, not pinned, or differ from their pinned SHA-256."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in jars}
    return sorted(name for name in digests.keys() | pins.keys() if digests.get(name) != pins.get(name))


def _pins() -> dict[str, str]:
    lines = JAR_HASHES_FILE.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _resolve() -> list[Path]:
    with warnings.catch_warnings():
        # Without a login session, platformdirs warns about a folder that is not used here.
        warnings.simplefilter("ignore")
        import jgo  # noqa: PLC0415  only the embedded broker needs it

        try:
            return sorted((Path(jar) for jar in jgo.build(KAFKA_ARTIFACT).all_jars), key=lambda path: path.name)
        except Exception as error:  # the operator's next step is the same after every error of the resolver
            raise StartupFailed(
                f"Kafka {KAFKA_VERSION} could not be fetched from Maven Central: {error}. Check the network, "
                "or name a Kafka of your own in KAFKA_BOOTSTRAP"
            ) from error
