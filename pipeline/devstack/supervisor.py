"""Run the whole stack on one machine: start servers, create topics and tables, start roles, restart what dies.

`mailfold up`, the demo and the tests that kill processes use it.
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from pydantic import SecretStr

from pipeline.devstack.role_counts import ROLES, role_of
from pipeline.devstack.servers import kafka, postgres
from pipeline.devstack.servers.data_dir import DataDir, ResourceInUse, is_port_taken
from pipeline.devstack.servers.orphans import PidFiles
from pipeline.devstack.servers.process import Program, StartupFailed
from pipeline.devstack.servers.restarter import Restarter
from pipeline.devstack.servers.threads import run_in_background
from pipeline.runtime.bootstrap import check_role_settings
from pipeline.runtime.environment import environment_of
from pipeline.runtime.kafka import topic_admin
from pipeline.runtime.postgres.schema import migrate_database
from pipeline.runtime.secrets.secret_ring import has_secret
from pipeline.settings import Settings

# The sum must be below the 10 seconds within which Ctrl-C stops everything.
_ROLE_STOP_TIMEOUT_S: Final = 5.0
_SERVER_STOP_TIMEOUT_S: Final = 4.0
_LISTEN_SETTINGS: Final = {"gateway": ("host", "port"), "sandbox": ("sandbox_host", "sandbox_smtp_port")}
OPS_PORT_SETTINGS: Final = tuple(f"ops_port_{role}" for role in ROLES if role != "sandbox")
_PORT_SETTINGS: Final = {
    "gateway": ("port", "inbound_port", "ops_port_gateway"),
    "worker": ("ops_port_worker",),
    "dispatch": ("ops_port_dispatch",),
    "project": ("ops_port_project",),
    "emit": ("ops_port_emit",),
    "sandbox": ("sandbox_smtp_port", "sandbox_http_port"),
}
_HOST_SETTINGS: Final = {
    "port": "host",
    "inbound_port": "inbound_host",
    "sandbox_smtp_port": "sandbox_host",
    "sandbox_http_port": "sandbox_host",
    **dict.fromkeys(OPS_PORT_SETTINGS, "ops_host"),
}


class Stack:
    """The embedded servers, where the settings name none, and the roles, as children of this process."""

    def __init__(
        self,
        settings: Settings,
        roles: Sequence[str] = ROLES,
        *,
        tell: Callable[[str], None] = lambda _: None,
        role_env: Mapping[str, Mapping[str, str]] | None = None,
        prepare: Callable[[Settings], Awaitable[None]] | None = None,
    ) -> None:
        """Set the stack up, without starting it.

        ``roles``: the processes, such as `worker` and `worker-2`, which is the second of its role. ``tell`` is called
        with each line of progress; ``role_env`` is added to a role's environment; ``prepare`` runs
        before the roles start, when the database is migrated.
        """
        self.data_dir = DataDir(settings.data_dir)
        self.settings = settings
        """The settings of every role: inside the `async with` they have servers, secret and ports filled in."""
        self._roles = tuple(roles)
        self._tell = tell
        self._role_env = role_env or {}
        self._prepare = prepare
        self._pid_files = PidFiles(self.data_dir.root / "pids")
        self._restarters: dict[str, Restarter] = {}

    @property
    def processes(self) -> tuple[str, ...]:
        """Return the names of the roles' processes."""
        return self._roles

    @property
    def pids(self) -> dict[str, int]:
        """Return each child's present process id."""
        return {name: restarter.child.pid for name, restarter in self._restarters.items()}

    @property
    def restart_counts(self) -> dict[str, int]:
        """Return how often each child was restarted."""
        return {name: restarter.restarts for name, restarter in self._restarters.items()}

    async def send_signal(self, name: str, number: int) -> int:
        """Send a signal to a child and return its process id, without waiting for any effect."""
        child = self._restarters[name].child
        child.process.send_signal(number)
        return child.pid

    async def wait_for_restarts(self, name: str, times: int, timeout_s: float = 60.0) -> None:
        """Wait until a child was restarted ``times`` times. Raise TimeoutError."""
        async with asyncio.timeout(timeout_s):
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
        self._end_orphans()
        self.settings = complete_settings(self.settings, self.data_dir)
        self._check_ports()
        await _run_all(self._start_kafka(), self._start_postgres())
        check_role_settings(self.settings)
        self._tell("topics and tables")
        await topic_admin.create(self.settings)
        await migrate_database(self.settings)
        if self._prepare is not None:
            await self._prepare(self.settings)
        for role in self._roles:
            self._start_role(role)
        await _run_all(*(self._wait_until_listening(role) for role in self._roles if role in _LISTEN_SETTINGS))

    async def _stop(self) -> None:
        servers = [restarter for name, restarter in self._restarters.items() if name not in self._roles]
        roles = [restarter for name, restarter in self._restarters.items() if name in self._roles]
        await asyncio.gather(*(restarter.stop(_ROLE_STOP_TIMEOUT_S) for restarter in roles))
        await asyncio.gather(*(restarter.stop(_SERVER_STOP_TIMEOUT_S) for restarter in servers))
        self.data_dir.unlock()

    def _end_orphans(self) -> None:
        server_signals = {"kafka": signal.SIGTERM, "postgres": signal.SIGINT}
        if names := self._pid_files.end_orphans(server_signals, _SERVER_STOP_TIMEOUT_S):
            self._tell(f"ended processes that a killed supervisor left running: {', '.join(names)}")

    def _check_ports(self) -> None:
        for name in (name for role in self._roles for name in _PORT_SETTINGS.get(role, ())):
            host, port = getattr(self.settings, _HOST_SETTINGS[name]), getattr(self.settings, name)
            if host and is_port_taken(host, port):
                variable = f"MAILFOLD_{name.upper()}"
                raise ResourceInUse(
                    f"{variable}: {host}:{port} is taken by another program; stop that, or set {variable}"
                )

    async def _start_kafka(self) -> None:
        if self.settings.kafka_bootstrap:
            return
        port, controller = self.data_dir.port("kafka"), self.data_dir.port("kafka-controller")
        program = await run_in_background(
            lambda: kafka.prepare_program(self.data_dir.root / "kafka", port, controller, tell=self._tell)
        )
        await self._start_server(program, lambda: kafka.is_ready(port))
        self.settings = self.settings.with_embedded_kafka(f"127.0.0.1:{port}")

    async def _start_postgres(self) -> None:
        if self.settings.database_url.get_secret_value():
            return
        port = self.data_dir.port("postgres")
        program, url = await run_in_background(
            lambda: postgres.prepare_program(self.data_dir.root / "postgres", port, tell=self._tell)
        )
        await self._start_server(program, lambda: postgres.is_ready(url))
        self.settings = self.settings.model_copy(update=postgres.settings_of(url))

    async def _start_server(self, program: Program, is_ready: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Start a server and wait until it is ready; from then on it is restarted when it dies.

        Raise StartupFailed.
        """
        self._tell(f"{program.name}: starting")
        restarter = self._restarters[program.name] = Restarter(program, self._pid_files, self._tell)
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        while not await run_in_background(is_ready):
            if not restarter.child.is_running() or clock() > deadline:
                log = restarter.child.tail()
                raise StartupFailed(f"{program.name} did not start; the end of {program.log}:\n{log}")
            await asyncio.sleep(0.1)
        restarter.start_watching()

    def _start_role(self, name: str) -> None:
        environment = environment_of(_process_settings(self.settings, self.data_dir, name))
        env = {"MALLOC_ARENA_MAX": "2", **environment, **self._role_env.get(name, {})}
        program = Program(name, (sys.executable, "-m", "pipeline", role_of(name)), self.data_dir.log_path(name), env)
        restarter = self._restarters[name] = Restarter(program, self._pid_files, self._tell)
        restarter.start_watching()

    async def _wait_until_listening(self, role: str, timeout_s: float = 60.0) -> None:
        """Wait until a role accepts connections. Raise StartupFailed."""
        host, port = (getattr(self.settings, name) for name in _LISTEN_SETTINGS[role])
        self._tell(f"{role}: starting")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not await _accepts_connections(host, port):
                    await asyncio.sleep(0.1)
                return
        log = self._restarters[role].child.tail()
        raise StartupFailed(
            f"{role} did not listen on {host}:{port} in time; the end of {self.data_dir.log_path(role)}:\n{log}"
        )


def complete_settings(settings: Settings, data_dir: DataDir) -> Settings:
    """Return the settings with the secret, ports and URLs that the operator did not set, taken from the data folder."""
    update: dict[str, Any] = {"data_dir": data_dir.root}
    if not has_secret(settings):
        update["secret"] = SecretStr(data_dir.secret("secret"))
    for name in _HOST_SETTINGS:
        if getattr(settings, _HOST_SETTINGS[name]) and _needs_port(settings, name):
            update[name] = data_dir.port(name)
    gateway = f"http://{settings.host}:{update.get('port', settings.port)}"
    update |= {name: gateway for name in ("public_url", "sandbox_gateway") if name not in settings.model_fields_set}
    return settings.model_copy(update=update)


def _process_settings(settings: Settings, data_dir: DataDir, name: str) -> Settings:
    """Return the settings of one process; a role's second one has a port, a folder and a member's name of its own."""
    role = role_of(name)
    if name == role:
        return settings
    update: dict[str, Any] = {"data_dir": data_dir.root / name}
    if settings.ops_host:
        update[f"ops_port_{role}"] = data_dir.port(name)
    if settings.kafka_group_instance_id:
        update["kafka_group_instance_id"] = f"{settings.kafka_group_instance_id}{name.removeprefix(role)}"
    return settings.model_copy(update=update)


def _needs_port(settings: Settings, name: str) -> bool:
    """Return whether a port of the data folder is used: for a port of 0, and for a taken one that nobody asked for."""
    port = getattr(settings, name)
    is_default = name in OPS_PORT_SETTINGS and name not in settings.model_fields_set
    return port == 0 or (is_default and is_port_taken(settings.ops_host, port))


async def _accepts_connections(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def _run_all(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines at the same time; when one fails, cancel the others and raise its error.

    After the cancellation none of them can start a child any more.
    """
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
