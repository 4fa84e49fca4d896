"""Readiness and metrics of a real manager, from outside: locked, serving, and with a full disk."""

import contextlib
import json
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.running import (
    ManagerProcess,
    RunningCluster,
    free_ports,
    running_cluster,
    wait_until,
)

DISK_MB = 24


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
    assert str(told.reason()).startswith("the record cannot be written")
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
        wait_until(lambda: told.reason() is not None, "it is not ready alone")
        assert told.reason() == "the record cannot be written: no quorum"
        assert told.get("/healthz")[0] == 200
        assert told.metric("strongroom_writable") == 0
        assert told.metric("strongroom_engine_has_leader") in {0, None}
        assert told.metric("strongroom_sessions") == 0

        for manager in others:
            manager.start()
        cluster.unlock_all()
        wait_until(lambda: told.reason() is None, "it is ready again")
        wait_until(lambda: told.metric("strongroom_duty_held") == 1, "the duties are held again")
