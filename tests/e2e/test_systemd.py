"""The units as they ship, under a real systemd: nothing that they close is needed."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from tests.support.etcd_cluster import need_etcd
from tests.support.running import free_ports, wait_until
from tests.support.systemd import UserSystemd, user_systemd
from tests.support.tracing import is_open_to_its_user

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
MANAGER, AGENT = "strongroom-manager.service", "strongroom-agent.service"
UID = 21_700


@pytest.fixture
def systemd() -> Iterator[UserSystemd]:
    # Not under /tmp: the manager's unit has a /tmp of its own.
    base = Path(tempfile.mkdtemp(prefix="sr-", dir="/srv"))
    base.chmod(0o711)
    try:
        with user_systemd(base) as running:
            yield running
    finally:
        shutil.rmtree(base)


def configured(base: Path) -> Path:
    """Write a manager's settings, and return the file."""
    api, join, peer = free_ports(3)
    for name in ("data", "sockets"):
        (base / name).mkdir(mode=0o700)
    settings = {
        "name": "m1", "advertise": "127.0.0.1", "data_dir": f"{base}/data",
        "run_dir": f"{base}/sockets", "api_listen": f"127.0.0.1:{api}",
        "join_listen": f"127.0.0.1:{join}", "peer_listen": f"127.0.0.1:{peer}",
        "etcd": str(need_etcd()),
    }  # fmt: skip
    file = base / "manager.toml"
    file.write_text("".join(f'{key} = "{value}"\n' for key, value in settings.items()))
    (base / "join").write_text(settings["join_listen"])
    return file


@pytest.mark.slow
def test_a_cluster_lives_within_its_units(systemd: UserSystemd) -> None:
    """Founding on etcd, joining, a delivery, a rotation with a command in the service, a restart of
    the agent over its mounts, and a manager that is locked after a restart."""
    base = systemd.base
    shell = CommandLine(base / "shell")
    file, socket = configured(base), f"{base}/sockets/admin.sock"
    systemd.install(UNITS / MANAGER, {"/etc/strongroom/manager.toml": str(file)}, base)
    flags = f"run --data-dir {base}/agent --run-dir {base}/mounts"
    systemd.install(UNITS / AGENT, {"strongroom-agent run": f"strongroom-agent {flags}"}, base)
    try:
        systemd.ok("systemctl", "--user", "start", MANAGER)
        assert systemd.shown(MANAGER, "StatusText") == "empty"
        key = str(base / "key")
        shell.ok("init", "--engine", "etcd", "--unlock-key-file", key, "--admin-socket", socket)
        wait_until(lambda: systemd.shown(MANAGER, "StatusText") == "serving", "it serves")
        token = shell.ok("token", "create", "--role", "worker").encode()
        shell.ok(
            "join", "--name", "n1", "--manager", (base / "join").read_text(),
            "--data-dir", f"{base}/agent", stdin=token, program="strongroom-agent",
        )  # fmt: skip
        systemd.ok("systemctl", "--user", "start", AGENT)
        wait_until(
            lambda: systemd.shown(AGENT, "StatusText") == "in session with a manager",
            "the agent is in session",
        )
        for unit in (MANAGER, AGENT):
            pid = int(systemd.shown(unit, "MainPID"))
            assert not is_open_to_its_user(pid)
        delivered(systemd, shell)
        systemd.ok("systemctl", "--user", "restart", MANAGER)
        assert systemd.shown(MANAGER, "StatusText").startswith("locked")
        shell.ok("unlock", "--admin-socket", socket, stdin=Path(key).read_bytes())
        wait_until(lambda: systemd.shown(MANAGER, "StatusText") == "serving", "it serves again")
        assert systemd.shown(MANAGER, "NRestarts") == systemd.shown(AGENT, "NRestarts") == "0"
    finally:
        systemd.run("systemctl", "--user", "stop", AGENT, MANAGER)


def delivered(systemd: UserSystemd, shell: CommandLine) -> None:
    """Deliver, rotate with a command that runs as the service, and have a new agent take over."""
    seen = systemd.base / "seen"
    seen.touch()
    seen.chmod(0o666)
    command = systemd.base / "on-change"
    command.write_text(f"#!/bin/sh\n{{ id -u; cat /run/secrets/db; }} > {seen}\n")
    command.chmod(0o755)
    shell.ok("secret", "create", "db", "-", stdin=b"one")
    shell.ok(
        "service", "create", "web", "--secret", "db", "--uid", str(UID), "--gid", str(UID),
        "--replicas", "1", "--on-change-command", str(command),
        "--health-cmd", "/bin/true", "--health-interval", "1s",
    )  # fmt: skip
    mounted = Path(f"/proc/{systemd.pid}/root{systemd.base}/mounts/secrets/web/db")
    assert mounted.read_bytes() == b"one"
    shell.ok("secret", "rotate", "db", "-", stdin=b"two")
    wait_until(
        lambda: seen.read_bytes() == f"{UID}\ntwo".encode(), "the command ran as the service"
    )
    systemd.ok("systemctl", "--user", "restart", AGENT)
    assert mounted.read_bytes() == b"two"
    shell.ok("secret", "rotate", "db", "-", stdin=b"three")
    assert mounted.read_bytes() == b"three"
