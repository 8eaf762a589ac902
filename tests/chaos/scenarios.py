"""The registry of scenarios: what each breaks, and the processes and servers that it needs."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from tests.chaos.play import Play

Run = Callable[[Play], Awaitable[None]]
PAIRS: Mapping[str, int] = {"gateway": 2, "worker": 2, "dispatch": 2, "project": 2, "emit": 2}
SINGLES: Mapping[str, int] = dict.fromkeys(PAIRS, 1)


@dataclass(frozen=True)
class Scenario:
    """A kind of failure and the setup that it needs."""

    name: str
    what: str
    run: Run
    counts: Mapping[str, int] = field(default_factory=lambda: SINGLES)
    brands: int = 2
    held: tuple[str, ...] = ()
    """Roles (or processes) that reach Kafka through the proxy."""
    own_disk: str = ""
    """The server (`kafka`, `postgres`, or one of three brokers: `kafka/broker-1`) whose files lie on a small disk."""
    brokers: int = 1
    """The brokers of the cluster: one, or three that the scenario has to itself."""
    role_env: Callable[[], Mapping[str, Mapping[str, str]]] = dict
    """Returns extra environment variables by role or process; may raise Skipped."""

    @property
    def has_own_servers(self) -> bool:
        """Return whether it needs servers that no other scenario uses."""
        return self.brokers > 1 or bool(self.own_disk)


SCENARIOS: dict[str, Scenario] = {}


def scenario(what: str, **layout: object) -> Callable[[Run], Run]:
    """Register a scenario under its function's name."""

    def register(run: Run) -> Run:
        name = run.__name__.replace("_", "-")
        SCENARIOS[name] = Scenario(name, what, run, **layout)  # type: ignore[arg-type]
        return run

    return register
