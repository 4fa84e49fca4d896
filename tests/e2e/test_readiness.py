"""Readiness and metrics of a real manager, from outside: locked, serving, and with a full disk."""

import contextlib
import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from tests.support.processes import children_of
from tests.support.running import (
    ManagerProcess,
    RunningCluster,
    free_ports,
    running_cluster,
    wait_until,
)

DISK_MB: Final = 24
NO_RECORD: Final = "the record cannot be written"


class Told:
    """What a manager tells on loopback."""

    def __init__(self, port: int) -> None:
        self._port = port

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self._port}{path}", timeout=10
            ) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float | None:
        """Return a metric, or None where it is not told."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else None

    def reason(self) -> str | None:
        """Return why the manager is not ready, or None if it is."""
        status, body = self.get("/readyz")
        told = json.loads(body)
        assert told["ready"] is (status == 200)
        return None if told["ready"] else str(told["reason"])

    def is_ready(self) -> bool:
        """Return whether the manager is ready."""
        return self.reason() is None


def on_a_small_disk(manager: ManagerProcess) -> Path:
    """Put a stopped manager's data on a file system of its own and return where that is."""
    data = manager.base / "data"
    content = subprocess.run(["tar", "-C", data, "-c", "."], check=True, capture_output=True)
    options = f"size={DISK_MB}m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", data], check=True)
    subprocess.run(["tar", "-C", data, "-x"], check=True, input=content.stdout)
    return data


def fill(directory: Path) -> Path:
    """Leave not one byte free."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 65_536):
            pass
    return filler


@pytest.mark.slow
def test_readiness_and_metrics_follow_what_a_manager_can_do() -> None:
    with running_cluster() as cluster:
        (manager,) = cluster.managers
        manager.stop()
        (port,) = free_ports(1)
        manager.argv += ["--metrics-listen", f"127.0.0.1:{port}"]
        data = on_a_small_disk(manager)
        try:
            follow(cluster, manager, Told(port), data)
        finally:
            manager.stop()
            subprocess.run(["umount", data], check=True)


def follow(cluster: RunningCluster, manager: ManagerProcess, told: Told, data: Path) -> None:
    manager.start()
    assert told.reason() == "the manager is locked"
    assert told.metric('strongroom_manager_state{state="locked"}') == 1
    assert told.metric("strongroom_ready") == 0
    assert told.metric("strongroom_secrets") is None

    cluster.unlock_all()
    wait_until(lambda: told.reason() is None, "it is ready")
    cluster.create_secret("credential", b"one")
    assert told.metric("strongroom_ready") == 1
    assert told.metric("strongroom_writable") == 1
    wait_until(lambda: told.metric("strongroom_duty_holder") == 1, "it holds the duties")

    filler = fill(data)
    wait_until(lambda: told.reason() is not None, "it is not ready with a full disk")
    assert str(told.reason()).startswith(NO_RECORD)
    assert told.get("/healthz")[0] == 200
    assert cluster.call("POST", "/v1/secrets?name=more", b"more").status == 503
    assert "credential" in str(cluster.call("GET", "/v1/secrets").body)
    wait_until(lambda: "duty.given_up" in manager.text(), "it gives the duties up")

    filler.unlink()
    wait_until(lambda: told.reason() is None, "it is ready again")
    cluster.create_secret("more", b"more")
    wait_until(lambda: told.metric("strongroom_duty_holder") == 1, "it takes the duties again")


@pytest.mark.slow
def test_survivor_without_a_majority_is_not_ready_and_says_why() -> None:
    """Two of three managers die; the third lives, reads nothing new, and is ready with them."""
    with running_cluster(managers=3, engine="etcd") as cluster:
        survivor, *others = cluster.managers
        survivor.stop()
        (port,) = free_ports(1)
        survivor.argv += ["--metrics-listen", f"127.0.0.1:{port}"]
        told = Told(port)
        survivor.start()
        cluster.unlock_all()
        wait_until(lambda: told.reason() is None, "all three are there")
        wait_until(lambda: told.metric('strongroom_managers{state="ready"}') == 3, "all are seen")
        wait_until(lambda: told.metric("strongroom_duty_held") == 1, "the duties are held")

        for manager in others:
            manager.kill()
        # At first it may say that it does not see what it wrote: a write that passed as they died.
        reason = f"{NO_RECORD}: no quorum"
        wait_until(lambda: told.reason() == reason, "it is not ready alone, and says why")
        assert told.get("/healthz")[0] == 200
        assert told.metric("strongroom_writable") == 0
        assert told.metric("strongroom_engine_has_leader") in {0, None}
        assert told.metric("strongroom_sessions") == 0

        for manager in others:
            manager.start()
        cluster.unlock_all()
        wait_until(lambda: told.reason() is None, "it is ready again")
        wait_until(lambda: told.metric("strongroom_duty_held") == 1, "the duties are held again")


@pytest.mark.slow
def test_duties_go_to_a_manager_that_can_write() -> None:
    """The engine hangs where the duties are, as on a disk that does not answer; the others place
    services as before."""
    with running_cluster(managers=3, agents=1, engine="etcd") as cluster:
        told: dict[str, Told] = {}
        for manager in cluster.managers:
            manager.stop()
            (port,) = free_ports(1)
            manager.argv += ["--metrics-listen", f"127.0.0.1:{port}"]
            told[manager.name] = Told(port)
            manager.start()
            cluster.unlock_all()
            wait_until(told[manager.name].is_ready, f"{manager.name} is ready")
        name = str(wait_until(lambda: holder_of(told), "somebody holds the duties"))
        (holder,) = [one for one in cluster.managers if one.name == name]
        others = {other: one for other, one in told.items() if other != name}
        (engine,) = children_of(holder.pid)

        os.kill(engine, signal.SIGSTOP)
        try:
            wait_until(lambda: not told[name].is_ready(), "the holder says that it cannot write")
            assert str(told[name].reason()).startswith(NO_RECORD)
            wait_until(lambda: holder_of(others), "another manager holds the duties")
            assert told[name].metric("strongroom_duty_holder") != 1
            # The task is placed; its agent may stay with the holder until its lease is over.
            cluster.ok("POST", "/v1/services", {"name": "red", "uid": 20_001, "gid": 20_001})
            placed = "/v1/services/red/tasks"
            wait_until(lambda: cluster.ok("GET", placed)["tasks"], "the service is placed")
        finally:
            os.kill(engine, signal.SIGCONT)
        wait_until(told[name].is_ready, "it is ready again")
        assert holder_of(told) in others, "the duties stay where they are"


def holder_of(told: dict[str, Told]) -> str | None:
    """Return the manager that says it holds the duties, if one does."""
    found = [name for name, one in told.items() if one.metric("strongroom_duty_holder") == 1]
    assert len(found) <= 1, found
    return found[0] if found else None
