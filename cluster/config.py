"""A manager's configuration: one frozen value, from a TOML file and overridden by flags.

Nothing else in the package reads a configuration file, or what the supervisor says in the
environment; settings never come from there.
Reference: docs/reference/config.md.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from cluster.protocol.errors import InvalidRequest
from cluster.protocol.ids import check_name
from cluster.protocol.supervisor import Supervisor

DEFAULT_DATA_DIR: Final = Path("/var/lib/strongroom")
DEFAULT_RUN_DIR: Final = Path("/run/strongroom")
MAX_PORT: Final = 65_535
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+")
_ADDRESS: Final = re.compile(
    rf"(?:(?P<host>{_HOST.pattern})|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{{1,5}}))?"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, default_port: int) -> "Address":
        """Return the address in `HOST[:PORT]`; an IPv6 host stands in brackets."""
        found = _ADDRESS.fullmatch(text)
        port = int(found["port"] or default_port) if found else 0
        if found is None or not 0 < port <= MAX_PORT:
            raise InvalidRequest("an address reads HOST or HOST:PORT, with IPv6 in brackets")
        return cls(found["host"] or found["v6"], port)


@dataclass(frozen=True, slots=True)
class Config:
    """What a manager is told from outside."""

    name: str
    """Its name, and its engine member's."""
    advertise: str
    """The host by which agents, operators and other managers reach it."""
    data_dir: Path = DEFAULT_DATA_DIR
    """The seal file and the engine's data; mode 0700."""
    run_dir: Path = DEFAULT_RUN_DIR
    """Sockets; mode 0700."""
    api_listen: Address = Address("0.0.0.0", 7443)  # noqa: S104  # managers serve a network; a certificate is required
    join_listen: Address = Address("0.0.0.0", 7444)  # noqa: S104  # managers serve a network; limited before any work
    peer_listen: Address = Address("0.0.0.0", 7445)  # noqa: S104  # etcd peers, under the engine's own CA
    metrics_listen: Address | None = None
    """A loopback address for /metrics, /healthz and /readyz, open to anybody on this machine, also
    while locked; None: metrics are read on 7443 only."""
    etcd: Path | None = None
    """The etcd binary; by default the one on PATH."""
    unlock_key_file: Path | None = None
    """A provider file that unlocks by itself: convenient, weak, and named so by `status`."""
    hook_directory: Path | None = None
    """Programs and addresses that change a credential at a third party; None: no hooks."""
    hook_timeout_s: float = 30.0
    """How long one call of a hook may take, in seconds."""
    audit_keep_days: int | None = None
    """How many days older than the newest one an audit export file may get; None: all stay."""
    log_format: str = "json"
    """"json" or "text"."""

    @property
    def audit_keep_s(self) -> float | None:
        """How long audit export files are kept, in seconds."""
        return None if self.audit_keep_days is None else self.audit_keep_days * 86_400.0

    @property
    def api_address(self) -> str:
        """The address others use for the session and the API."""
        return str(Address(self.advertise, self.api_listen.port))

    @property
    def join_address(self) -> str:
        """The address others use to join."""
        return str(Address(self.advertise, self.join_listen.port))

    @property
    def peer_address(self) -> str:
        """The address other managers' engine members use."""
        return str(Address(self.advertise, self.peer_listen.port))

    @property
    def seal_file(self) -> Path:
        """The manager's local seal file."""
        return self.data_dir / "seal"

    @property
    def engine_dir(self) -> Path:
        """The engine's data."""
        return self.data_dir / "engine"

    @property
    def admin_socket(self) -> Path:
        """The unix socket for local root."""
        return self.run_dir / "admin.sock"


_PORTS: Final = {"api_listen": 7443, "join_listen": 7444, "peer_listen": 7445}
_PATHS: Final = frozenset({"data_dir", "run_dir", "etcd", "unlock_key_file", "hook_directory"})
_LONGEST_HOOK_S: Final = 600
_METRICS_PORT: Final = 7446
_MOST_DAYS: Final = 36_500
_NAMES: Final = frozenset(field.name for field in fields(Config))


def supervisor() -> Supervisor:
    """Return who started this process and wants to hear of it; once, at the start."""
    return Supervisor.of(os.environ)


def host_names(host: str) -> tuple[tuple[str, ...], tuple[IPv4Address | IPv6Address, ...]]:
    """Return a host as (DNS names, IP addresses), the way certificates tell them apart."""
    try:
        return (), (ip_address(host),)
    except ValueError:
        return (host,), ()


def load(path: Path | None, overrides: Mapping[str, str | None]) -> Config:
    """Return the configuration in a TOML file, with flags over it.

    Raises InvalidRequest that names the setting; unknown settings are refused, because a misspelt
    one would be ignored.
    """
    settings: dict[str, str] = {}
    if path is not None:
        settings |= _read(path)
    settings |= {key: value for key, value in overrides.items() if value is not None}
    unknown = sorted(settings.keys() - _NAMES)
    if unknown:
        raise InvalidRequest(f"unknown setting {unknown[0]}; see docs/reference/config.md")
    missing = sorted({"name", "advertise"} - settings.keys())
    if missing:
        raise InvalidRequest(f"set {' and '.join(missing)} (flags or configuration file)")
    return Config(**{key: _parsed(key, value) for key, value in settings.items()})  # type: ignore[arg-type]  # _parsed maps by field


def _read(path: Path) -> dict[str, str]:
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidRequest(f"the configuration file cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):  # tomllib raises more than its own error
        raise InvalidRequest("the configuration file is not TOML") from None
    for key, value in content.items():
        if not isinstance(value, str):
            raise InvalidRequest(f"setting {key} takes a string")
    return content


def _host(text: str) -> str:
    """Return a host name or an IP address; an IPv6 address may stand in brackets."""
    try:
        return str(IPv6Address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        if _HOST.fullmatch(text) is None:
            raise InvalidRequest(
                "advertise is a host; its ports are those of the listeners"
            ) from None
        return text


def _hook_timeout(text: str) -> float:
    """Return whole seconds."""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= _LONGEST_HOOK_S):
        raise InvalidRequest(f"hook_timeout_s takes 1 to {_LONGEST_HOOK_S} seconds, a whole number")
    return float(text)


def _loopback(text: str) -> Address:
    """Return an address that only this machine reaches."""
    address = Address.parse(text, _METRICS_PORT)
    names, addresses = host_names(address.host)
    if names or not all(one.is_loopback for one in addresses):
        raise InvalidRequest("metrics_listen takes a loopback address, like 127.0.0.1:7446")
    return address


def _days(text: str) -> int:
    """Return whole days."""
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= _MOST_DAYS):
        raise InvalidRequest(f"audit_keep_days takes 1 to {_MOST_DAYS} days, a whole number")
    return int(text)


def _parsed(key: str, value: str) -> object:
    if key in _PORTS:
        return Address.parse(value, _PORTS[key])
    if key == "metrics_listen":
        return _loopback(value)
    if key in _PATHS:
        return Path(value)
    if key == "hook_timeout_s":
        return _hook_timeout(value)
    if key == "audit_keep_days":
        return _days(value)
    if key == "name":
        return check_name(value)
    if key == "advertise":
        return _host(value)
    if key == "log_format" and value not in {"json", "text"}:
        raise InvalidRequest("log_format is json or text")
    return value
