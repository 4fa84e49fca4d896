"""The audit is trimmed while a cluster runs, and a restart finds its store as the audit tells."""

import json
import subprocess

import pytest

from tests.support.running import (
    SCRIPTS,
    ManagerProcess,
    RunningCluster,
    running_cluster,
    wait_until,
)


def _dropped(cluster: RunningCluster) -> bool:
    return any("keys.epoch_dropped" in manager.text() for manager in cluster.managers)


def _read_exports(cluster: RunningCluster) -> None:
    """Each manager vouches for its own files, and one of them tells of the secret."""
    found = []
    for manager in cluster.managers:
        for name in _archives(manager):
            done = _audit(manager, "export", "-", "--archive", name)
            found += [json.loads(line) for line in done.splitlines()]
    assert "secret/credential" in {entry["resource"] for entry in found}


def _archives(manager: ManagerProcess) -> list[str]:
    names = _audit(manager, "archives", "-q").split()
    assert names == sorted(path.name for path in manager.base.glob("data/audit/*.links"))
    return names


def _audit(manager: ManagerProcess, verb: str, *arguments: str) -> str:
    socket = ("--admin-socket", str(manager.admin_socket))
    command = [str(SCRIPTS / "strongroom"), "audit", verb, *arguments, *socket]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_old_key_epoch_goes_and_the_restarted_cluster_is_sound() -> None:
    """After `key rotate` the links under the old epoch are exported; all managers, started again,
    are ready and issue what they held."""
    with running_cluster(managers=3, engine="etcd", agents=1) as cluster:
        cluster.create_secret("credential", b"one")
        cluster.create_service("twitter", 20_031, "credential")
        cluster.ok("POST", "/v1/keys/rotate")
        wait_until(lambda: _dropped(cluster), "the old epoch is destroyed", 90.0)
        _read_exports(cluster)
        assert cluster.ok("GET", "/v1/audit/verification")["whole"]
        cluster.rotate("credential", b"two")
        for manager in cluster.managers:
            manager.stop()
        for manager in cluster.managers:
            manager.start()
        cluster.unlock_all()
        for manager in cluster.managers:
            wait_until(
                lambda m=manager: m.admin("GET", "/admin/status").body["ready"],  # type: ignore[misc]  # mypy cannot infer it
                f"{manager.name} is ready",
            )
        cluster.rotate("credential", b"three")
        assert cluster.agents[0].read("twitter", "credential") == b"three"
        for manager in cluster.managers:
            assert manager.admin("GET", "/admin/status").body["ready"]
            assert "store.integrity" not in manager.text()
