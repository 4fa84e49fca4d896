"""A credential that the cluster changes at a third party by itself: real processes, a real hook.

An application calls the third party with what its file holds, again and again; no call is ever
refused, whenever a manager dies.
"""

import contextlib
import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import (
    ManagerProcess,
    RunningCluster,
    empty_cluster,
    free_ports,
    wait_until,
)

ROOT = Path(__file__).resolve().parents[2]
API = ROOT / "docs" / "lab" / "apps" / "third_party_api.py"
HOOK = """#!/bin/sh
# Notes each call without its value, then holds it up as long as the test wants.
call=$(cat)
told='s/.*"operation":"\\([a-z0-9]*\\)","action":"\\([a-z]*\\)".*/\\1 \\2/'
echo "$call" | sed "$told" >> {base}/calls
action=$(tail -n 1 {base}/calls | cut -d' ' -f2)
while [ -e {base}/hold-$action ]; do sleep 0.05; done
echo "$call" | {python} -I {api} hook {base}/console
"""


class CredentialIssuer:
    """The lab's API, and the hook that speaks to its console."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.hooks = base / "hooks"
        (self.port,) = free_ports(1)
        self.socket = str(base / "console")

    def write_hook(self) -> None:
        self.hooks.mkdir(mode=0o755)
        hook = self.hooks / "party"
        hook.write_text(HOOK.format(base=self.base, python=sys.executable, api=API))
        hook.chmod(0o755)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        child = subprocess.Popen([sys.executable, "-I", API, "serve", str(self.port), self.socket])
        try:
            wait_until(lambda: Path(self.socket).exists(), "the third party serves")
            yield
        finally:
            child.kill()
            child.wait()

    def console(self, *words: str) -> dict[str, Any]:
        argv = [sys.executable, "-I", str(API), words[0], self.socket, *words[1:]]
        found: dict[str, Any] = json.loads(subprocess.check_output(argv))
        return found

    def calls(self) -> list[str]:
        """Return what the hook was told: `OPERATION ACTION`."""
        path = self.base / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def wait_told(self, told: str, times: int = 1) -> None:
        wait_until(lambda: self.calls().count(told) >= times, f"the hook is told: {told}")

    def hold(self, action: str) -> None:
        (self.base / f"hold-{action}").touch()

    def release(self, action: str) -> None:
        (self.base / f"hold-{action}").unlink()


class Application(threading.Thread):
    """Calls the API with what the file holds until told to stop."""

    def __init__(self, file: Path, port: int) -> None:
        super().__init__()
        self.file = file
        self.port = port
        self.stopped = threading.Event()
        self.statuses: set[int] = set()
        self.calls = 0

    def run(self) -> None:
        while not self.stopped.wait(0.02):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            bearer = self.file.read_text()
            connection.request("POST", "/", headers={"Authorization": f"Bearer {bearer}"})
            self.statuses.add(connection.getresponse().status)
            self.calls += 1
            connection.close()


@contextlib.contextmanager
def rotating(engine: str, managers: int) -> Iterator[tuple[RunningCluster, CredentialIssuer]]:
    """Give a cluster with a hook, a service that uses the credential, and its application."""
    with empty_cluster(engine) as cluster:
        party = CredentialIssuer(cluster.base)
        party.write_hook()
        cluster.manager_flags = ("--hook-directory", str(party.hooks))
        cluster.found(managers)
        agent = cluster.add_agent()
        with party.serving():
            first = cluster.base / "first"
            party.console("issue", str(first))
            cluster.create_secret("api-key", first.read_bytes())
            cluster.create_service("twitter", 20_003, "api-key")
            schedule = {"every_s": 86_400, "generator": "password", "hook": "party"}
            cluster.ok("PUT", "/v1/secrets/api-key/schedule", schedule)
            application = Application(agent.mount("twitter") / "api-key", party.port)
            application.start()
            try:
                yield cluster, party
            finally:
                application.stopped.set()
                application.join(30)
            assert application.statuses == {200}
            assert application.calls > 0


def rotation(cluster: RunningCluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.ok("GET", "/v1/secrets/api-key/rotation")["rotation"]
    return found


def _restart(cluster: RunningCluster, manager: ManagerProcess) -> None:
    manager.start()
    manager.unlock(cluster.unlock_key)


@pytest.mark.slow
def test_rotation_goes_on_after_its_manager_was_killed_in_every_step() -> None:
    """Kill -9 in the middle of each call of the hook: the same operation is told again."""
    with rotating("sqlite", 1) as (cluster, party):
        (manager,) = cluster.managers
        for action in ("prepare", "confirm", "retire"):
            party.hold(action)
        operation = cluster.ok("POST", "/v1/secrets/api-key/rotation", {})["operation"]
        for action in ("prepare", "confirm", "retire"):
            told = f"{operation} {action}"
            party.wait_told(told)
            manager.kill()
            before = party.calls().count(told)
            _restart(cluster, manager)
            party.wait_told(told, before + 1)
            party.release(action)
        wait_until(lambda: rotation(cluster)["done"], "the rotation is over")
        assert rotation(cluster)["error"] == ""
        assert {call.split()[0] for call in party.calls()} == {operation}
        assert cluster.agents[0].read("twitter", "api-key") != (cluster.base / "first").read_bytes()
        usage = party.console("usage")
        assert usage["refused"] == 0
        assert len(usage["accepted"]) == 2


@pytest.mark.slow
def test_another_manager_carries_a_rotation_on() -> None:
    """The holder of the duty dies while the hook confirms; nobody restarts it."""
    with rotating("etcd", 3) as (cluster, party):
        party.hold("confirm")
        operation = cluster.ok("POST", "/v1/secrets/api-key/rotation", {})["operation"]
        told = f"{operation} confirm"
        party.wait_told(told)
        _holder(cluster).kill()
        party.wait_told(told, 2)
        party.release("confirm")
        wait_until(lambda: rotation(cluster)["done"], "the rotation is over")
        assert rotation(cluster)["step"] == "done"
        assert party.console("usage")["refused"] == 0


def _holder(cluster: RunningCluster) -> ManagerProcess:
    """Return the manager whose child the hook is."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            if words[:2] == ["/bin/sh", f"{cluster.base}/hooks/party"]:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                return next(one for one in cluster.managers if one.pid == parent)
    raise AssertionError("no hook runs")


@pytest.mark.slow
@pytest.mark.threat("T-37")
def test_credential_is_in_no_argument_and_no_environment_while_a_hook_runs() -> None:
    """The hook holds a value while the whole of /proc is searched for it."""
    with rotating("sqlite", 1) as (cluster, party):
        party.hold("confirm")
        operation = cluster.ok("POST", "/v1/secrets/api-key/rotation", {})["operation"]
        party.wait_told(f"{operation} confirm")
        value = cluster.agents[0].read("twitter", "api-key")
        assert value is not None
        found = [path for path in _arguments_and_environments() if value in path.read_bytes()]
        assert found == []
        assert value not in cluster.managers[0].log.read_bytes()
        party.release("confirm")
        wait_until(lambda: rotation(cluster)["done"], "the rotation is over")


def _arguments_and_environments() -> Iterator[Path]:
    for entry in Path("/proc").iterdir():
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                (entry / name).read_bytes()
                yield entry / name
