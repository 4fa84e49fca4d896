"""The etcd member this manager supervises: find the program, start it, keep it running, stop it.

Owns the child process and its directories; never talks etcd's protocol. The member dies with the
manager (PDEATHSIG, which follows the thread that started it: start members from the main thread).
Clients reach it by a unix socket in a directory of mode 0700, so there are no client certificates;
peers need a certificate of the engine CA with the name `PEER_NAME`.

Exit 0 without our signal means that the member was removed from its cluster: it is not started
again. Nor is one whose log is gone, alone or with its disk, until it is there again: etcd would
begin anew under the same name, having forgotten what it acknowledged and whom it voted for.
Sources: etcd 3.4 configuration flags, ADR 0002.
"""

import asyncio
import contextlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from cluster.engine import etcd_launch
from cluster.protocol.errors import InvariantViolation, Unavailable

log = structlog.get_logger()

PEER_NAME = "strongroom-manager"
"""Common name of every engine certificate."""
OLDEST_VERSION = (3, 4, 22)
CORRUPTING_VERSIONS = frozenset({(3, 5, 0), (3, 5, 1), (3, 5, 2)})
QUOTA_BYTES = 1 << 30
STOP_PATIENCE_S = 5.0
VERSION_PATIENCE_S = 10.0
FIRST_BACKOFF_S = 0.1
LAST_BACKOFF_S = 10.0
LOG_LOOK_S = 1.0
ENDS_IN_A_ROW = 3
"""Starts that ended within `LAST_BACKOFF_S`, one after the other, before that is no accident."""
LOG_BYTES = 16 << 20
# A third of the heap is spare and no more. Never a limit in bytes (GOMEMLIMIT): once a grown store
# needs more than it, Go collects without end and takes half of every processor, in all members.
ENVIRONMENT = {"GOGC": "50"}

ClusterState = Literal["new", "existing"]


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """Where a member lives and how its peers reach it. Addresses are host:port."""

    name: str
    program: Path
    data_dir: Path
    run_dir: Path
    """Working directory of mode 0700; holds the socket and the log."""
    peer_listen: str
    peer_advertise: str
    cluster_token: str
    peer_pem: Path
    """Certificate and key in one file, so that renewal replaces both at once."""
    peer_ca_pem: Path
    quota_bytes: int = QUOTA_BYTES
    inherit: tuple[int, ...] = ()
    """Files it takes over open: a PEM in a memfd, named /proc/self/fd/N, lies on no disk."""
    private: bool = False
    """No peer reaches it and none lets it in: its peer listener is a socket beside the client's,
    and it has no certificate."""
    alone: bool = False
    """At each start it drops every other member of its cluster. For a copy that is thrown away:
    what etcd makes of a member that was killed may differ from what a newcomer would learn of it.
    Source: etcd, disaster recovery."""

    @property
    def socket_path(self) -> Path:
        """The client socket; etcd 3.4 takes only names that look like host:port."""
        return self.run_dir / f"{self.name}.sock:0"

    @property
    def log_path(self) -> Path:
        """What the member printed."""
        return self.run_dir / f"{self.name}.log"


def find_etcd(configured: Path | None = None) -> Path:
    """Return the etcd program: the configured one, else the one on PATH. Raises Unavailable."""
    found = configured or shutil.which("etcd")
    if found is None or not os.access(found, os.X_OK):
        where = f"at {configured}" if configured else "on PATH"
        raise Unavailable(
            f"no etcd program {where}; install the Debian package etcd-server, or set its path"
        )
    return Path(found)


async def check_version(program: Path) -> str:
    """Return the program's version. Raises Unavailable for one that is too old or corrupts data."""
    child = await asyncio.create_subprocess_exec(
        program, "--version", stdout=asyncio.subprocess.PIPE, env=ENVIRONMENT
    )
    try:
        async with asyncio.timeout(VERSION_PATIENCE_S):
            printed, _ = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        raise Unavailable(f"{program} --version does not answer; check the program") from None
    match = re.search(rb"etcd Version: (\d+)\.(\d+)\.(\d+)", printed)
    if match is None:
        raise Unavailable(f"{program} does not say which etcd it is; check the program")
    return accept_version((int(match[1]), int(match[2]), int(match[3])))


def accept_version(version: tuple[int, int, int]) -> str:
    """Return a version as text if members may run it. Raises Unavailable."""
    text = ".".join(map(str, version))
    if version in CORRUPTING_VERSIONS:
        raise Unavailable(f"etcd {text} corrupts data after a crash; install 3.5.3 or later")
    if version < OLDEST_VERSION:
        raise Unavailable(f"etcd {text} is too old; install 3.4.22 or later")
    return text


def command_line(
    settings: MemberSettings, initial_cluster: Mapping[str, str], state: ClusterState
) -> list[str]:
    """Return the member's argv. `initial_cluster`: name -> host:port of all, itself included."""
    client_url = f"unix://{settings.socket_path.name}"
    members = ",".join(f"{name}=https://{peer}" for name, peer in initial_cluster.items())
    options: dict[str, object] = {
        "name": settings.name,
        "data-dir": settings.data_dir,
        "listen-peer-urls": _peer_url(settings),
        "initial-advertise-peer-urls": f"https://{settings.peer_advertise}",
        "listen-client-urls": client_url,
        "advertise-client-urls": client_url,
        "initial-cluster": members,
        "initial-cluster-state": state,
        "initial-cluster-token": settings.cluster_token,
        **({} if settings.private else _peer_trust(settings)),
        # docs/adr/0014-election-timing.md
        "heartbeat-interval": 50,
        "election-timeout": 500,
        "pre-vote": "true",
        "snapshot-count": 1000,
        "max-wals": 2,
        "max-snapshots": 2,
        "auto-compaction-mode": "revision",
        "auto-compaction-retention": 1000,
        "quota-backend-bytes": settings.quota_bytes,
        "logger": "zap",
    }
    if settings.alone:
        options["force-new-cluster"] = "true"
    return [str(settings.program), *(f"--{name}={value}" for name, value in options.items())]


def _peer_url(settings: MemberSettings) -> str:
    if settings.private:
        return f"unix://{settings.name}.peers:0"
    return f"https://{settings.peer_listen}"


def _peer_trust(settings: MemberSettings) -> dict[str, object]:
    return {
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": settings.peer_ca_pem,
        "peer-cert-file": settings.peer_pem,
        "peer-key-file": settings.peer_pem,
        "peer-cert-allowed-cn": PEER_NAME,
    }


class EtcdMember:
    """A supervised child; `removed` is set when the cluster put it out."""

    def __init__(self, settings: MemberSettings) -> None:
        self.settings = settings
        self.removed = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = False
        self._had_log = False
        self._ends_in_a_row = 0

    @property
    def ends_at_every_start(self) -> bool:
        """Whether the last starts all ended soon: its log in the run directory says why."""
        return self._ends_in_a_row >= ENDS_IN_A_ROW

    @property
    def pid(self) -> int | None:
        """The child's process id while it runs."""
        child = self._child
        return child.pid if child is not None and child.returncode is None else None

    async def start(self, initial_cluster: Mapping[str, str], state: ClusterState) -> None:
        """Start the member and keep it running; existing data overrules both arguments."""
        if threading.current_thread() is not threading.main_thread():
            raise InvariantViolation("a member started by another thread dies with that thread")
        self._prepare_directories()
        self._had_log = await asyncio.to_thread(self._has_log)
        command = command_line(self.settings, initial_cluster, state)
        self._child = await self._spawn(command)
        self._supervisor = asyncio.create_task(self._supervise(command), name="etcd-supervisor")

    def _prepare_directories(self) -> None:
        for directory in (self.settings.run_dir, self.settings.data_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)

    async def _spawn(self, command: list[str]) -> asyncio.subprocess.Process:
        self.settings.socket_path.unlink(missing_ok=True)  # a stale one would refuse the listener
        output = self._open_log()
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", etcd_launch.__file__, str(os.getpid()), *command,
                cwd=self.settings.run_dir,
                env=ENVIRONMENT,
                pass_fds=self.settings.inherit,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a terminal's ^C is the manager's to handle
            )  # fmt: skip
        finally:
            os.close(output)
        log.info("engine.member_started", name=self.settings.name, pid=child.pid)
        return child

    def _open_log(self) -> int:
        path = self.settings.log_path
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(path, flags, 0o600)

    async def _supervise(self, command: list[str]) -> None:
        """Start the member again when it ends, more and more slowly while it ends at once."""
        backoff_s = FIRST_BACKOFF_S
        loop = asyncio.get_running_loop()
        while self._child is not None:
            started = loop.time()
            status = await self._ended(self._child)
            if self._stopping:
                return
            if status == 0:
                log.warning("engine.member_removed", name=self.settings.name)
                self.removed.set()
                return
            if loop.time() - started > LAST_BACKOFF_S:
                backoff_s = FIRST_BACKOFF_S
                self._ends_in_a_row = 0
            self._ends_in_a_row += 1
            log.error("engine.member_ended", name=self.settings.name, status=status)
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, LAST_BACKOFF_S)
            await self._until_log_is_there()
            self._child = await self._spawn(command)

    async def _ended(self, child: asyncio.subprocess.Process) -> int:
        """Return a child's exit status; note whether it had a log, while it runs and at its end."""
        status: int | None = None
        while status is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self._had_log else LOG_LOOK_S):
                    status = await child.wait()
            self._had_log = self._had_log or await asyncio.to_thread(self._has_log)
        return status

    async def _until_log_is_there(self) -> None:
        """Return at once but for a member that had a log and has none now."""
        told = False
        while self._had_log and not await asyncio.to_thread(self._has_log):
            if not told:
                log.error("engine.member_log_gone", data_dir=str(self.settings.data_dir))
            told = True
            await asyncio.sleep(LOG_LOOK_S)

    def _has_log(self) -> bool:
        try:
            names = list((self.settings.data_dir / "member" / "wal").iterdir())
        except OSError:
            return False
        return any(name.suffix == ".wal" for name in names)

    async def stop(self) -> None:
        """Stop the member and its supervision: asked first, killed after `STOP_PATIENCE_S`."""
        self._stopping = True
        if self._supervisor is not None and (
            self._child is None or self._child.returncode is not None
        ):
            self._supervisor.cancel()  # it sleeps before the next start
        if self._child is not None:
            await _end(self._child)
        if self._supervisor is not None:
            await asyncio.wait([self._supervisor], timeout=STOP_PATIENCE_S)

    def wipe_data_dir(self) -> None:
        """Remove the member's data: before a join and after a removal, never while it runs."""
        if self.pid is not None:
            raise Unavailable("the engine member runs; stop it before its data is wiped")
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.settings.data_dir)


async def _end(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        async with asyncio.timeout(STOP_PATIENCE_S):
            await child.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
