"""A manager that dies on its way in: the same token brings it in, or it is in already."""

import json
import subprocess
import sys

import pytest

from tests.support.running import ManagerProcess, RunningCluster, running_cluster, wait_until

pytestmark = pytest.mark.slow

_JOIN = """
import sys
from cluster.protocol.https_client import stream_lines
with stream_lines(["unix:" + sys.argv[1]], "POST", "/admin/join", body=sys.stdin.buffer.read(),
                  timeout_s=90) as got:
    for line in got.lines():
        print(line.decode(), flush=True)
"""


def _join_until(manager: ManagerProcess, body: bytes, step: str) -> None:
    """Ask to join, and cut the power when a step begins."""
    words = [sys.executable, "-c", _JOIN, str(manager.admin_socket)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(body)
        child.stdin.close()
        for line in child.stdout:
            if json.loads(line).get("step") == step:
                break
        manager.kill()
        child.kill()


def _bring_in(cluster: RunningCluster, manager: ManagerProcess, body: dict[str, object]) -> None:
    """Do what an operator does who finds it so: unlock; if that says so, join again."""
    manager.start()
    key = {"unlock_key": cluster.unlock_key}
    steps = manager.admin_steps("/admin/unlock", key) if manager.state() == "locked" else []
    if not steps or "error" in steps[-1]:
        steps = manager.admin_steps("/admin/join", body)
    assert steps[-1] == {"done": True}, steps


@pytest.mark.parametrize(
    "step", ["asking to be let in", "becoming a learner", "catching up", "opening the store"]
)
def test_a_join_cut_short_is_taken_up_again(step: str) -> None:
    """The first manager writes again once the second is back, whichever step it died in."""
    with running_cluster(engine="etcd") as cluster:
        cluster.create_secret("before", b"x")
        token = cluster.ok("POST", "/v1/tokens", {"role": "manager"})["token"]
        joiner = cluster.add_manager()
        body: dict[str, object] = {
            "unlock_key": cluster.unlock_key,
            "token": token,
            "managers": [cluster.managers[0].join],
        }
        _join_until(joiner, json.dumps(body).encode(), step)
        _bring_in(cluster, joiner, body)
        cluster.create_secret("after", b"y")
        names = wait_until(
            lambda: (
                {
                    manager["name"]
                    for manager in cluster.ok("GET", "/v1/managers")["managers"]
                    if manager["state"] == "ready"
                }
                == {"m1", "m2"}
            ),
            "both managers are ready",
        )
        assert names
