"""Given volumes and tight ones: an agent without capabilities, rotations faster than the sweep."""

import stat
import subprocess
from pathlib import Path

from tests.support.running import AgentProcess, RunningCluster, running_cluster, wait_until

WITHOUT_CAPABILITIES = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
AGENT_UID = 0
SERVICE_GID = 10_001


def _given_volume(path: Path, options: str = "noswap,size=1m,nr_inodes=256") -> None:
    path.mkdir(parents=True)
    owner = f"mode=2750,uid={AGENT_UID},gid={SERVICE_GID}"
    words = ["mount", "-t", "tmpfs", "-o", f"nosuid,nodev,noexec,{options},{owner}", "given"]
    subprocess.run([*words, str(path)], check=True)


def _agent_without_capabilities(cluster: RunningCluster, given_root: Path) -> AgentProcess:
    """Start an agent that may do nothing but write where it is the owner, as in the compose lab."""
    agent = AgentProcess("n1", cluster.base / "n1", cluster.env)
    cluster.agents.append(agent)
    token = cluster.ok("POST", "/v1/tokens", {"role": "worker"})["token"]
    agent.join(token, [manager.join for manager in cluster.managers])
    agent.argv = [*WITHOUT_CAPABILITIES, *agent.argv, "--mounts", "given"]
    agent.argv += ["--given-root", str(given_root)]
    agent.start()
    wait_until(lambda: cluster.node("n1")["state"] == "ready", "the agent is ready")
    return agent


def test_an_agent_without_capabilities_fills_the_volume_it_was_given() -> None:
    """Owner the agent, group the volume's; rotation in place; what is no volume is refused."""
    with running_cluster() as cluster:
        given_root = cluster.base / "volumes"
        _given_volume(given_root / "red")
        (given_root / "blue").mkdir()  # plain disk
        agent = _agent_without_capabilities(cluster, given_root)
        status = Path(f"/proc/{agent.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        cluster.create_secret("credential", b"one")
        cluster.create_service("red", 20_001, "credential")
        file = given_root / "red" / "credential"
        assert file.read_bytes() == b"one"
        assert (file.stat().st_uid, file.stat().st_gid) == (AGENT_UID, SERVICE_GID)
        assert stat.S_IMODE(file.stat().st_mode) == 0o440
        cluster.rotate("credential", b"two")
        assert file.read_bytes() == b"two"
        draft = {"name": "blue", "references": [{"source": "credential"}]}
        cluster.ok("POST", "/v1/services", draft)
        refused = wait_until(
            lambda: next(
                (
                    task["error"]
                    for task in cluster.ok("GET", "/v1/services/blue/tasks")["tasks"]
                    if task["error"]
                ),
                None,
            ),
            "the agent says why blue is not mounted",
        )
        assert refused is not None
        assert "tmpfs" in refused
        assert not list((given_root / "blue").iterdir())


def test_large_secrets_rotated_faster_than_the_sweep_still_arrive() -> None:
    """Superseded generations wait for slow readers only while there is room."""
    with running_cluster(agents=1) as cluster:
        (agent,) = cluster.agents
        cluster.create_secret("large", b"0" * 511_999)
        cluster.create_service("red", 20_001, "large")
        for number in range(1, 13):
            value = f"{number:x}".encode()[:1] * 511_999
            cluster.rotate("large", value)
            assert agent.read("red", "large") == value
