"""Run real mail servers, postfix and exim4, as relays between a dispatcher and recipients, on loopback in a folder.

Debian's packages of the two exclude each other, so exim4 is unpacked into a folder; EXIM4 names its program. Both need
root, because they change to users of their own.
"""

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

POSTFIX_DAEMONS = Path("/usr/lib/postfix/sbin")
EXIM4 = Path(os.environ.get("EXIM4", Path(__file__).parents[2] / ".cache/exim4/usr/sbin/exim4"))
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Neighbours:
    """The ports to which a relay sends mail, by domain."""

    inbound: int
    """The port of our listener, for our mail domain."""
    receiver: int
    """The port of a server that reports nothing itself, for receiver.test."""
    closed: int
    """A port on which no server listens, for closed.test."""


MAIN_CF = """
compatibility_level = 3.6
command_directory = /usr/sbin
daemon_directory = {daemons}
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
mail_owner = postfix
setgid_group = postdrop
myhostname = relay.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
alias_maps =
default_transport = error:no such domain here
transport_maps = inline:{{ {domain}=smtp:[127.0.0.1]:{inbound}, receiver.test=smtp:[127.0.0.1]:{receiver},
    closed.test=smtp:[127.0.0.1]:{closed} }}
virtual_alias_domains = alias.test
virtual_alias_maps = inline:{{ moved@alias.test=gone@receiver.test }}
virtual_mailbox_domains = here.test
virtual_mailbox_maps = inline:{{ anna@here.test=anna/ }}
virtual_mailbox_base = {folder}/mail
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
delay_warning_time = 1s
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 1s
"""
MASTER_CF = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
postlog unix-dgram n - n - 1 postlogd
"""
# Each port has its own transport, because exim reuses a connection to the same address without regard to the port.
EXIM_CONF = """
primary_hostname = relay.test
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
pid_file_path = {folder}/exim.pid
keep_environment =
exim_path = {program}
exim_user = {user}
exim_group = {group}
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
tls_advertise_hosts =
dsn_advertise_hosts = *
acl_smtp_rcpt = accept
acl_smtp_data = accept
host_lookup =
rfc1413_query_timeout = 0s
qualify_domain = relay.test
never_users =
trusted_users = root
queue_run_max = 2
delay_warning = 1s
delay_warning_condition = yes

begin routers
moved:
  driver = redirect
  domains = alias.test
  data = gone@receiver.test
home:
  driver = manualroute
  domains = {domain}
  route_list = * 127.0.0.1::{inbound} byname
  transport = to_home
  self = send
there:
  driver = manualroute
  domains = receiver.test
  route_list = * 127.0.0.1::{receiver} byname
  transport = to_there
  self = send
nowhere:
  driver = manualroute
  domains = closed.test
  route_list = * 127.0.0.1::{closed} byname
  transport = to_nowhere
  self = send
here:
  driver = accept
  domains = here.test
  local_parts = anna
  transport = file

begin transports
to_home:
  driver = smtp
  allow_localhost
to_there:
  driver = smtp
  allow_localhost
to_nowhere:
  driver = smtp
  allow_localhost
file:
  driver = appendfile
  file = {folder}/spool/anna
  create_file = anywhere
  user = {user}
  group = {group}

begin retry
* * F,1h,1s
"""


@contextlib.contextmanager
def postfix(folder: Path, domain: str, to: Neighbours) -> Iterator[int]:
    """Run a postfix instance, and yield its port."""
    user, port = _server_user(POSTFIX_DAEMONS / "master", "postfix"), free_port()
    for name in ("conf", "queue", "data", "mail"):
        (folder / name).mkdir(parents=True)
    for name in ("data", "mail"):
        os.chown(folder / name, user.pw_uid, user.pw_gid)
    fields = {"folder": folder, "daemons": POSTFIX_DAEMONS, "uid": user.pw_uid, "gid": user.pw_gid, "domain": domain}
    (folder / "conf/main.cf").write_text(MAIN_CF.format(**fields, **vars(to)))
    (folder / "conf/master.cf").write_text(MASTER_CF.format(port=port))
    _let_others_pass(folder)
    config = ("-c", str(folder / "conf"))
    subprocess.run(["/usr/sbin/postfix", *config, "check"], check=True, capture_output=True)
    command = [str(POSTFIX_DAEMONS / "master"), *config, "-d"]
    with _running(command, port, folder / "log", {"MAIL_CONFIG": str(folder / "conf")}):
        yield port


@contextlib.contextmanager
def exim(folder: Path, domain: str, to: Neighbours) -> Iterator[int]:
    """Run an exim daemon that runs its queue every second, and yield its port."""
    user, port = _server_user(EXIM4, "Debian-exim"), free_port()
    (folder / "spool").mkdir(parents=True)
    os.chown(folder, user.pw_uid, user.pw_gid)
    os.chown(folder / "spool", user.pw_uid, user.pw_gid)
    fields = {
        "folder": folder,
        "user": user.pw_uid,
        "group": user.pw_gid,
        "port": port,
        "domain": domain,
        "program": EXIM4,
    }
    (folder / "conf").write_text(EXIM_CONF.format(**fields, **vars(to)))
    _let_others_pass(folder)
    with _running([str(EXIM4), "-C", str(folder / "conf"), "-bdf", "-q1s"], port, folder / "mainlog", {}):
        yield port


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Yield a port that is bound, so that no program can listen on it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def _server_user(program: Path, user: str) -> pwd.struct_passwd:
    """Return the server's user; skip the test where .ci/mail-servers has not installed the server."""
    if os.geteuid() != 0:
        pytest.skip("a mail server of its own needs root")
    if not program.exists():
        pytest.skip(f"{program} is not there; .ci/mail-servers installs it")
    try:
        return pwd.getpwnam(user)
    except KeyError:
        pytest.skip(f"there is no user {user}; .ci/mail-servers makes it")


def _let_others_pass(folder: Path) -> None:
    """Let the servers' users pass the folders above, which pytest makes private."""
    for above in (folder, *folder.parents):
        if above.stat().st_uid == os.geteuid() and above != Path(above.anchor):
            above.chmod(above.stat().st_mode | 0o011)


@contextlib.contextmanager
def _running(command: list[str], port: int, log: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Run a server in a new session, and end it with its children at the end of the block."""
    process = subprocess.Popen(
        command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _wait_for_greeting(process, port, log)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _wait_for_greeting(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as peer:
            if peer.recv(100).startswith(b"220"):
                return
        log_text = log.read_text() if log.exists() else ""
        assert process.poll() is None, log_text + (process.stderr.read().decode() if process.stderr else "")
        assert time.monotonic() < deadline, log_text
        time.sleep(0.05)
