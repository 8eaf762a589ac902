"""Settings in; a whole running stack on one machine out: servers, topics, tables, roles, each kept alive.

`mailfold up`, the demo and the tests that kill processes all use this one class.
"""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from pydantic import SecretStr

from pipeline.devstack.servers import kafka, postgres
from pipeline.devstack.servers.data_dir import DataDir, ResourceInUse, is_port_taken
from pipeline.devstack.servers.orphans import PidFiles
from pipeline.devstack.servers.process import Program, StartupFailed
from pipeline.devstack.servers.restarter import Restarter
from pipeline.devstack.servers.threads import run_in_background
from pipeline.runtime import topic_admin
from pipeline.runtime.bootstrap import check_role_settings
from pipeline.runtime.database import open_database
from pipeline.settings import Settings, environment_of

ROLES: Final = ("gateway", "worker", "dispatch", "project", "emit", "sandbox")
"""In flow order; `sandbox` plays the provider."""

# Together under the 10 seconds in which Ctrl-C must have stopped everything.
_ROLE_STOP_TIMEOUT_S: Final = 5.0
_SERVER_STOP_TIMEOUT_S: Final = 4.0
_LISTEN_SETTINGS: Final = {"gateway": ("host", "port"), "sandbox": ("sandbox_host", "sandbox_smtp_port")}
_PORT_SETTINGS: Final = {"gateway": ("port", "inbound_port"), "sandbox": ("sandbox_smtp_port", "sandbox_http_port")}
_HOST_SETTINGS: Final = {
    "port": "host",
    "inbound_port": "inbound_host",
    "sandbox_smtp_port": "sandbox_host",
    "sandbox_http_port": "sandbox_host",
}


class Stack:
    """Embedded servers where the settings name none, and the roles, as children of this process."""

    def __init__(
        self,
        settings: Settings,
        roles: Sequence[str] = ROLES,
        *,
        tell: Callable[[str], None] = lambda _: None,
        role_env: Mapping[str, Mapping[str, str]] | None = None,
        prepare: Callable[[Settings], Awaitable[None]] | None = None,
    ) -> None:
        """``role_env`` is added to a role's environment; ``prepare`` runs before the roles, on a migrated database."""
        self.data_dir = DataDir(settings.data_dir)
        self.settings = settings
        """Inside the `async with`: with servers, secret and ports filled in; what every role gets."""
        self._roles = tuple(roles)
        self._tell = tell
        self._role_env = role_env or {}
        self._prepare = prepare
        self._pids = PidFiles(self.data_dir.root / "pids")
        self._keepers: dict[str, Restarter] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Each child's present process id."""
        return {name: keeper.child.pid for name, keeper in self._keepers.items()}

    @property
    def restart_counts(self) -> dict[str, int]:
        """How often each child was started again."""
        return {name: keeper.restarts for name, keeper in self._keepers.items()}

    async def send_signal(self, name: str, number: int) -> int:
        """Send a signal to a child; its process id. Whether and when it dies is the child's affair."""
        child = self._keepers[name].child
        child.process.send_signal(number)
        return child.pid

    async def wait_for_restarts(self, name: str, times: int, patience: float = 60.0) -> None:
        """Wait until a child was started again ``times`` times. Raises TimeoutError."""
        async with asyncio.timeout(patience):
            while self.restart_counts[name] < times:
                await asyncio.sleep(0.05)

    async def __aenter__(self) -> "Stack":
        self.data_dir.lock()
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._stop()

    async def _start(self) -> None:
        self._end_leftovers()
        self.settings = complete_settings(self.settings, self.data_dir)
        self._check_ports()
        await _all(self._kafka(), self._postgres())
        check_role_settings(self.settings)
        self._tell("topics and tables")
        await topic_admin.create(self.settings)
        async with open_database(self.settings, size=1):
            pass
        if self._prepare is not None:
            await self._prepare(self.settings)
        for role in self._roles:
            self._keep(self._role(role))
        await _all(*(self._listening(role) for role in self._roles if role in _LISTEN_SETTINGS))

    async def _stop(self) -> None:
        servers = [keeper for name, keeper in self._keepers.items() if name not in self._roles]
        roles = [keeper for name, keeper in self._keepers.items() if name in self._roles]
        await asyncio.gather(*(keeper.stop(_ROLE_STOP_TIMEOUT_S) for keeper in roles))
        await asyncio.gather(*(keeper.stop(_SERVER_STOP_TIMEOUT_S) for keeper in servers))
        self.data_dir.unlock()

    def _end_leftovers(self) -> None:
        servers = {"kafka": 15, "postgres": 2}
        if found := self._pids.end_orphans(servers, _SERVER_STOP_TIMEOUT_S):
            self._tell(f"ended what a killed supervisor had left running: {', '.join(found)}")

    def _check_ports(self) -> None:
        for name in (name for role in self._roles for name in _PORT_SETTINGS.get(role, ())):
            host, port = getattr(self.settings, _HOST_SETTINGS[name]), getattr(self.settings, name)
            if host and is_port_taken(host, port):
                variable = f"MAILFOLD_{name.upper()}"
                raise ResourceInUse(
                    f"{variable}: {host}:{port} is taken by another program; stop that, or set {variable}"
                )

    async def _kafka(self) -> None:
        if self.settings.kafka_bootstrap:
            return
        port, controller = self.data_dir.port("kafka"), self.data_dir.port("kafka-controller")
        program = await run_in_background(
            lambda: kafka.prepare_program(self.data_dir.root / "kafka", port, controller, tell=self._tell)
        )
        await self._server(program, lambda: kafka.is_ready(port))
        self.settings = self.settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{port}"})

    async def _postgres(self) -> None:
        if self.settings.database_url.get_secret_value():
            return
        port = self.data_dir.port("postgres")
        program, url = await run_in_background(
            lambda: postgres.prepare_program(self.data_dir.root / "postgres", port, tell=self._tell)
        )
        await self._server(program, lambda: postgres.is_ready(url))
        self.settings = self.settings.model_copy(update={"database_url": SecretStr(url)})

    async def _server(self, program: Program, answers: Callable[[], bool], patience: float = 60.0) -> None:
        """Start a server and wait for it; only one that came up once is kept alive."""
        self._tell(f"{program.name}: starting")
        keeper = self._keepers[program.name] = Restarter(program, self._pids, self._tell)
        clock = asyncio.get_running_loop().time
        deadline = clock() + patience
        while not await run_in_background(answers):
            if not keeper.child.is_running() or clock() > deadline:
                raise StartupFailed(f"{program.name} did not start; the end of {program.log}:\n{keeper.child.tail()}")
            await asyncio.sleep(0.1)
        keeper.start_watching()

    def _keep(self, program: Program) -> None:
        keeper = self._keepers[program.name] = Restarter(program, self._pids, self._tell)
        keeper.start_watching()

    def _role(self, name: str) -> Program:
        env = {"MALLOC_ARENA_MAX": "2", **environment_of(self.settings), **self._role_env.get(name, {})}
        return Program(name, (sys.executable, "-m", "pipeline", name), self.data_dir.log_path(name), env)

    async def _listening(self, role: str, patience: float = 60.0) -> None:
        host, port = (getattr(self.settings, name) for name in _LISTEN_SETTINGS[role])
        self._tell(f"{role}: starting")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not await _accepts(host, port):
                    await asyncio.sleep(0.1)
                return
        log = self._keepers[role].child.tail()
        raise StartupFailed(
            f"{role} did not listen on {host}:{port} in time; the end of {self.data_dir.log_path(role)}:\n{log}"
        )


def complete_settings(settings: Settings, home: DataDir) -> Settings:
    """The settings with what `up` provides where the operator named nothing: folder, secret, ports, URLs."""
    update: dict[str, Any] = {"data_dir": home.root}
    if not settings.secret.get_secret_value():
        update["secret"] = SecretStr(home.secret("secret"))
    for name in _HOST_SETTINGS:
        if getattr(settings, name) == 0 and getattr(settings, _HOST_SETTINGS[name]):
            update[name] = home.port(name)
    given = settings.model_fields_set
    gateway = f"http://{settings.host}:{update.get('port', settings.port)}"
    update |= {name: gateway for name in ("public_url", "sandbox_gateway") if name not in given}
    return settings.model_copy(update=update)


async def _accepts(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def _all(*work: Coroutine[Any, Any, None]) -> None:
    """Run together; where one fails the others are cancelled, so that none starts a child after we gave up."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
