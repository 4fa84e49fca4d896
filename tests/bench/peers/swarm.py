"""Docker Swarm: three managers with their defaults, one service with one replica."""

import base64
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.bench.load import Asked, Target, generating, numbered
from tests.bench.memory import own_mb
from tests.bench.peers.engines import IMAGE, PORT, Engine, engines
from tests.bench.peers.sides import Amount, Work
from tests.bench.stage import VALUE_BYTES
from tests.support.processes import children_of
from tests.support.running import wait_until

SERVICE: Final = "reader"
PATIENCE_S: Final = 120.0
_READ: Final = (
    "cat /run/secrets/credential >/out/new && mv /out/new /out/value; "
    "trap exit TERM; sleep 100000 & wait"
)


class Swarm:
    """Three engines that form a swarm."""

    def __init__(self, members: list[Engine]) -> None:
        self.members = members
        self._number = itertools.count()
        self._service = ""

    def form(self) -> None:
        """Found the swarm, join the others as managers, start the service."""
        first, *others = self.members
        first.ask("POST", "/swarm/init", _listening(first))
        token = first.ask("GET", "/swarm")["JoinTokens"]["Manager"]
        for other in others:
            join = {"RemoteAddrs": [f"{first.address}:{PORT}"], "JoinToken": token}
            other.ask("POST", "/swarm/join", {**_listening(other), **join})
        self.wait_complete()
        self.out.mkdir()
        spec = self._spec(*self._new_secret(b"first"))
        self._service = first.ask("POST", "/services/create", spec)["ID"]
        wait_until(lambda: self.read() == b"first", "the service reads its secret")

    @property
    def out(self) -> Path:
        """Where the service leaves what it read."""
        return self.members[0].home / "out"

    def read(self) -> bytes | None:
        """Return what the service read."""
        with contextlib.suppress(FileNotFoundError):
            return (self.out / "value").read_bytes()
        return None

    def wait_complete(self) -> None:
        """Wait until three managers are reachable."""
        wait_until(lambda: len(self._reachable()) == 3, "three managers of the swarm are reachable")

    def _reachable(self) -> list[dict[str, Any]]:
        nodes = self.members[0].ask("GET", "/nodes")
        known = [node.get("ManagerStatus", {}).get("Reachability") for node in nodes]
        return [node for node, state in zip(nodes, known, strict=True) if state == "reachable"]

    def leader(self) -> Engine:
        """Return the leading manager."""

        def find() -> Engine | None:
            for node in self._reachable():
                if node["ManagerStatus"].get("Leader"):
                    name = node["Description"]["Hostname"]
                    return next(member for member in self.members if member.name == name)
            return None

        found = wait_until(find, "the swarm has a leader")
        assert found is not None
        return found

    def rotate(self, value: bytes) -> None:
        """Give the service a new secret in place of the one it has: a secret cannot change."""
        member = self.members[0]
        secret = self._new_secret(value)
        version = member.ask("GET", f"/services/{self._service}")["Version"]["Index"]
        path = f"/services/{self._service}/update?version={version}"
        member.ask("POST", path, self._spec(*secret))

    def updated(self) -> bool:
        """Return whether no update is under way."""
        service = self.members[0].ask("GET", f"/services/{self._service}")
        return service.get("UpdateStatus", {}).get("State") in {None, "completed"}

    def _new_secret(self, value: bytes) -> tuple[str, str]:
        name = f"credential-{next(self._number)}"
        body = {"Name": name, "Data": base64.b64encode(value).decode()}
        return str(self.members[0].ask("POST", "/secrets/create", body)["ID"]), name

    def _spec(self, secret_id: str, secret_name: str) -> dict[str, Any]:
        file = {"Name": "credential", "UID": "0", "GID": "0", "Mode": 0o440}
        container = {
            "Image": IMAGE,
            "Command": ["/bin/sh", "-c", _READ],
            "Secrets": [{"File": file, "SecretID": secret_id, "SecretName": secret_name}],
            "Mounts": [{"Type": "bind", "Source": f"/srv/{self.members[0].name}/out",
                        "Target": "/out"}],
        }  # fmt: skip
        where = {"Constraints": [f"node.hostname=={self.members[0].name}"]}
        return {
            "Name": SERVICE,
            "TaskTemplate": {"ContainerSpec": container, "Placement": where},
            "Mode": {"Replicated": {"Replicas": 1}},
            "UpdateConfig": {"Parallelism": 1, "Order": "start-first"},
        }


class SwarmSide:
    """Swarm's side of a comparison."""

    name: Final = "Docker Swarm"
    notes: Final[Mapping[Work, str]] = {
        Work.CREATE_ALONE: "unix socket, no TLS to the caller, no audit",
        Work.CREATE_TOGETHER: "unix socket, no TLS to the caller, no audit",
        Work.ROTATE: "new secret and service update, start-first: the task is replaced",
        Work.LOSE_LEADER: "defaults; writes try both survivors",
    }

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._number = itertools.count()
        self._rate("listed", [member.socket for member in swarm.members], 16, 999)

    def sample(self, work: Work, amount: Amount) -> float | None:
        """See `Side.sample`."""
        name = f"peer-{next(self._number)}"
        match work:
            case Work.CREATE_ALONE:
                one = [self._swarm.leader().socket]
                return self._rate(name, one, 1, max(amount.creates // 10, 30))
            case Work.CREATE_TOGETHER:
                every = [member.socket for member in self._swarm.members]
                return self._rate(name, every, 64, amount.creates)
            case Work.ISSUE:
                return None
            case Work.ROTATE:
                return self._rotate()
            case Work.LOSE_LEADER:
                return self._lose_leader()
            case Work.LIST:
                started = time.perf_counter()
                assert len(self._swarm.members[0].command("secret", "ls").splitlines()) > 999
                return (time.perf_counter() - started) * 1_000

    def memory(self) -> Mapping[str, float]:
        """See `Side.memory`. The daemon manages, runs containers and writes files, all in one."""
        daemons = [member.pid for member in self._swarm.members]
        return {"server": max(own_mb(pid) + sum(map(own_mb, children_of(pid))) for pid in daemons)}

    def _rate(self, prefix: str, sockets: list[Path], callers: int, count: int) -> float:
        value = base64.b64encode(os.urandom(VALUE_BYTES)).decode()
        body = json.dumps({"Name": numbered(f"{prefix}-"), "Data": value}).encode()
        target = Target(
            tuple(f"unix:{path}" for path in sockets), headers={"content-type": "application/json"}
        )
        asked = Asked("POST", "/secrets/create", body)
        with generating(target, asked, callers, processes=min(callers, 2)) as generator:
            return generator.round(count).rate

    def _rotate(self) -> float:
        wait_until(self._swarm.updated, "the service's last update is complete")
        value = base64.b64encode(os.urandom(VALUE_BYTES * 3 // 4))
        started = time.perf_counter()
        self._swarm.rotate(value)
        while self._swarm.read() != value:
            if time.perf_counter() - started > PATIENCE_S:
                raise AssertionError("the swarm's service did not read the rotated secret")
            time.sleep(0.001)
        return time.perf_counter() - started

    def _lose_leader(self) -> float:
        leader = self._swarm.leader()
        others = [one for one in self._swarm.members if one is not leader]
        body = {"Name": f"after-{next(self._number)}", "Data": "d3JpdHRlbg=="}
        started = time.perf_counter()
        leader.kill()
        for member in itertools.cycle(others):
            if _written(member, body):
                break
            if time.perf_counter() - started > PATIENCE_S:
                raise AssertionError("the swarm takes no write after its leader's end")
            time.sleep(0.005)
        taken = time.perf_counter() - started
        leader.start()
        self._swarm.wait_complete()
        return taken


def _written(member: Engine, body: dict[str, str]) -> bool:
    try:
        member.ask("POST", "/secrets/create", body, timeout_s=2.0)
    except OSError as error:
        return "already exists" in str(error)  # an attempt that was given up was carried out
    return True


def _listening(engine: Engine) -> dict[str, str]:
    address = f"{engine.address}:{PORT}"
    return {"ListenAddr": address, "AdvertiseAddr": address}


@contextlib.contextmanager
def swarm() -> Iterator[SwarmSide]:
    """Run a swarm. Raises CannotRun where this machine cannot."""
    with engines() as members:
        formed = Swarm(members)
        try:
            formed.form()
            yield SwarmSide(formed)
        except BaseException:
            for member in members:
                sys.stderr.write(f"--- {member.name}\n{member.text()}\n")
            raise
