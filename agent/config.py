"""The agent's configuration: one frozen value from flags and an optional TOML file.

Nothing else reads files of settings, or what the supervisor says in the environment; settings never
come from there. Flags win over the file.
"""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.mounts import MountKind
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.loopback import LoopbackUrl, parse_loopback_url
from cluster.protocol.supervisor import Supervisor

DEFAULT_DATA_DIRECTORY = Path("/var/lib/strongroom-agent")
DEFAULT_RUN_DIRECTORY = Path("/run/strongroom-agent")
_DEFAULT_SIZE_BYTES = 4 * 1024 * 1024
_DEFAULT_INODES = 1024


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """How one agent runs."""

    data_dir: Path = DEFAULT_DATA_DIRECTORY
    run_dir: Path = DEFAULT_RUN_DIRECTORY
    mounts: MountKind = MountKind.KERNEL
    given_root: Path | None = None
    """Given volumes: each service's is mounted at `given_root/<service>`."""
    socket_root: Path | None = None
    """Given volumes: a service with a directory below it gets its workload socket there."""
    managers: tuple[str, ...] = ()
    """host:port of session listeners; overrides what the managers say, for networks that
    translate.
    """
    size_bytes: int = _DEFAULT_SIZE_BYTES
    """Of each kernel mount; an update needs room for the old and the new files together."""
    inodes: int = _DEFAULT_INODES
    metrics_listen: str | None = None
    """A loopback HOST:PORT for /metrics, open to anybody on this machine; None: nowhere."""

    def __post_init__(self) -> None:
        if self.mounts is MountKind.GIVEN and self.given_root is None:
            raise InvalidRequest("given volumes need --given-root: each service's is below it")
        if self.size_bytes <= 0 or self.inodes <= 0:
            raise InvalidRequest("size_bytes and inodes must be positive")
        if self.metrics_listen is not None:
            loopback(self.metrics_listen)

    @property
    def mount_root(self) -> Path:
        """The directory that holds each service's mount."""
        return self.given_root or self.run_dir / "secrets"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data_dir: str | None = None
    run_dir: str | None = None
    mounts: MountKind | None = None
    given_root: str | None = None
    socket_root: str | None = None
    managers: tuple[str, ...] | None = None
    size_bytes: int | None = None
    inodes: int | None = None
    metrics_listen: str | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says; None leaves it to the file, then to the defaults."""

    data_dir: Path | None = None
    run_dir: Path | None = None
    mounts: MountKind | None = None
    given_root: Path | None = None
    socket_root: Path | None = None
    managers: tuple[str, ...] | None = None
    metrics_listen: str | None = None


def supervisor() -> Supervisor:
    """Return who started this process and wants to hear of it; once, at the start."""
    return Supervisor.of(os.environ)


def load(overrides: Overrides, file: Path | None = None) -> AgentConfig:
    """Return the configuration, or raise InvalidRequest, which names the setting."""
    stored = _read(file) if file is not None else _File()
    default = AgentConfig()
    return AgentConfig(
        data_dir=overrides.data_dir or _path(stored.data_dir) or default.data_dir,
        run_dir=overrides.run_dir or _path(stored.run_dir) or default.run_dir,
        mounts=overrides.mounts or stored.mounts or default.mounts,
        given_root=overrides.given_root or _path(stored.given_root),
        socket_root=overrides.socket_root or _path(stored.socket_root),
        managers=overrides.managers or stored.managers or (),
        size_bytes=default.size_bytes if stored.size_bytes is None else stored.size_bytes,
        inodes=default.inodes if stored.inodes is None else stored.inodes,
        metrics_listen=overrides.metrics_listen or stored.metrics_listen,
    )


def loopback(text: str) -> LoopbackUrl:
    """Return the address in `HOST:PORT`, or raise InvalidRequest: only this machine may reach
    it.
    """
    try:
        found = parse_loopback_url(f"http://{text}")
    except InvalidRequest:
        found = None
    if found is None or found.authority != text:
        raise InvalidRequest("metrics_listen takes a loopback HOST:PORT, like 127.0.0.1:7447")
    return found


def _read(file: Path) -> _File:
    try:
        content = tomllib.loads(file.read_text())
        return msgspec.convert(content, _File)
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InvalidRequest(f"{file}: {error}") from None
    except (ValueError, RecursionError):
        # Not UTF-8, a number beyond measure, nesting without end: tomllib passes these on.
        raise InvalidRequest(f"{file} is not TOML") from None


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
