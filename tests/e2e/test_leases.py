"""The dead-man's switch on real nodes: cut off, or stopped and woken late."""

import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support.node import PYTHON
from tests.support.relay import Relay
from tests.support.running import AgentProcess, RunningCluster, running_cluster, wait_until

UID = 26_501
PATIENCE_S = 60.0
FILES = ("kept", "default", "short", "long")

# Sent at once; the answer is read until the end, whenever it comes.
_GET = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.connect(f"/proc/self/fd/{sys.argv[1]}/workload.sock")
connection.sendall(b'{"v":1,"op":"get","name":"short"}\\n')
sys.stdout.buffer.write(connection.makefile("rb").read())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster(agents=2) as running:
        yield running


@pytest.fixture
def relay(cluster: RunningCluster) -> Iterator[Relay]:
    """Both agents reach their manager through it only."""
    with Relay(cluster.managers[0].api) as relay:
        for agent in cluster.agents:
            agent.stop()
            agent.argv += ["--manager", relay.address]
            agent.start()
        yield relay


def held(agent: AgentProcess) -> set[str]:
    """Return which files are there."""
    return {name for name in FILES if agent.read("lab", name) is not None}


def ask(agent: AgentProcess) -> "subprocess.Popen[bytes]":
    """Ask as the service for `short`, over its own socket."""
    directory = os.open(agent.run_dir / "workload" / "lab", os.O_PATH)
    try:
        return subprocess.Popen(
            [PYTHON, "-I", "-c", _GET, str(directory)],
            stdout=subprocess.PIPE, pass_fds=[directory], user=UID, group=UID, cwd="/",
        )  # fmt: skip
    finally:
        os.close(directory)


def answer(asking: "subprocess.Popen[bytes]") -> tuple[bool, bytes]:
    """Return whether it was given, and what."""
    out, _ = asking.communicate(timeout=PATIENCE_S)
    head, _, body = out.partition(b"\n")
    return bool(json.loads(head)["ok"]), body


def has_ended(agent: AgentProcess, lease_s: float) -> bool:
    """Return whether a lease is over that counts from the last request granted to an agent."""
    stored = json.loads((agent.run_dir / "lease.json").read_bytes())
    return time.clock_gettime(time.CLOCK_BOOTTIME) > float(stored["sent_s"]) + lease_s


@pytest.mark.slow
@pytest.mark.needs_root
@pytest.mark.threat("T-33")
def test_files_go_with_their_leases_and_come_back_with_the_network(
    cluster: RunningCluster, relay: Relay
) -> None:
    """n1 runs on behind the cut; n2 is stopped with it, and woken once the lease is over."""
    for name in FILES:
        cluster.create_secret(name, name.encode())
    wipe = {"on_lease_loss": "wipe"}
    references = [
        {"source": "kept"},
        {"source": "default", **wipe},
        {"source": "short", **wipe, "lease_s": 30},
        {"source": "long", **wipe, "lease_s": 3600},
    ]
    cluster.create_service("lab", UID, references=references, **{"global": True})
    running, stopped = cluster.agents
    for agent in cluster.agents:
        wait_until(lambda a=agent: held(a) == set(FILES), "all is mounted")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        assert answer(ask(agent)) == (True, b"short")

    relay.cut()
    stopped.pause()
    wait_until(lambda: "short" not in held(running), "the short lease has ended", PATIENCE_S)
    assert held(running) == {"kept", "default", "long"}
    assert not answer(ask(running))[0]

    # Nobody wiped there: the agent itself has to. Asked while it stands still, it wakes too late.
    wait_until(lambda: has_ended(stopped, 30), "its short lease has ended as well", PATIENCE_S)
    assert held(stopped) == set(FILES)
    asking = ask(stopped)
    stopped.resume()
    assert not answer(asking)[0]
    wait_until(lambda: held(stopped) == {"kept", "default", "long"}, "the late one wipes", 10)

    relay.heal()
    for agent in cluster.agents:
        wait_until(lambda a=agent: held(a) == set(FILES), "all is back", PATIENCE_S)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        assert answer(ask(agent)) == (True, b"short")
