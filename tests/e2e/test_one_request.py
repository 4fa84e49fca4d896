"""One request, followed from the command to the nodes that it reached."""

import json
from typing import Any

from tests.support.command_line import CommandLine
from tests.support.running import (
    AgentProcess,
    ManagerProcess,
    RunningCluster,
    running_cluster,
    wait_until,
)

UID = 20_001
GROUPS = (
    "--update-canary", "1", "--update-parallelism", "1", "--update-monitor", "1s",
    "--update-patience", "30s",
)  # fmt: skip


def lines(process: ManagerProcess | AgentProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.text().splitlines() if line.startswith("{")]


def applied(agent: AgentProcess, request_id: str) -> list[dict[str, Any]]:
    """Return what the agent's log says was put in place for a request."""
    done = [line for line in lines(agent) if line["event"] == "assignments.applied"]
    return [line for line in done if request_id in line["request_ids"]]


def told(agent: AgentProcess, request_id: str) -> dict[str, Any]:
    """Return the one line of the agent's log that tells of a request."""
    wait_until(lambda: applied(agent, request_id), "the agent tells of the request")
    (line,) = applied(agent, request_id)
    return line


def followed(manager: ManagerProcess, shell: CommandLine, *words: str, stdin: bytes = b"") -> str:
    """Run a command with -v; return the id of its write, which it and the manager's log tell."""
    before = len(lines(manager))
    done = shell.run(*words, "-v", stdin=stdin)
    assert done.code == 0, done.stderr

    def answered() -> list[str]:
        new = [one for one in lines(manager)[before:] if one["event"] == "request.answered"]
        return [str(one["request_id"]) for one in new if one["request_id"] in done.stderr]

    (request_id,) = wait_until(answered, "the manager's log has the request")
    return request_id


def audited(shell: CommandLine, request_id: str) -> list[dict[str, Any]]:
    shown = shell.ok("audit", "query", "--request-id", request_id, "--format", "json")
    return [json.loads(line) for line in shown.splitlines()]


def operator(cluster: RunningCluster) -> CommandLine:
    shell = CommandLine(cluster.base / "shell")
    socket = str(cluster.managers[0].admin_socket)
    shell.ok("operator", "renew", "admin", "--admin-socket", socket)
    return shell


def test_request_id_leads_from_the_command_to_the_nodes_log() -> None:
    with running_cluster(agents=1) as cluster:
        (manager,), (agent,) = cluster.managers, cluster.agents
        shell = operator(cluster)
        made = followed(manager, shell, "secret", "create", "db", "-", stdin=b"first")
        web = ("service", "create", "web", "--secret", "db", "--uid", str(UID))
        placed = followed(manager, shell, *web)
        rotated = followed(manager, shell, "secret", "rotate", "db", "-", stdin=b"second")
        assert agent.read("web", "db") == b"second", "the command waited for it"
        back = followed(manager, shell, "secret", "rollback", "db")
        assert agent.read("web", "db") == b"first"
        for request_id, action, resource in (
            (made, "secret.create", "secret/db"),
            (placed, "service.create", "service/web"),
            (rotated, "secret.rotate", "secret/db"),
            (back, "secret.rollback", "secret/db"),
        ):
            (entry,) = audited(shell, request_id)
            assert (entry["action"], entry["resource"]) == (action, resource)
            line = told(agent, request_id)
            assert line["revision"] >= entry["position"]
            assert line["failed"] == []


def test_a_rotation_that_the_cluster_makes_is_one_request_everywhere() -> None:
    """Its version is made primary by the duty later on, in a transaction of its own."""
    with running_cluster(agents=1) as cluster:
        (manager,), (agent,) = cluster.managers, cluster.agents
        shell = operator(cluster)
        cluster.create_secret("db", b"first")
        cluster.create_service("web", UID, "db")
        asked = followed(manager, shell, "secret", "rotate", "db", "--generate", "hex")
        assert agent.read("web", "db") not in {None, b"first"}
        line = told(agent, asked)
        actions = [entry["action"] for entry in audited(shell, asked)]
        assert actions[0] == "secret.rotate"
        assert set(actions[1:]) == {"rotation.step"}
        assert line["failed"] == []


def test_a_held_node_tells_of_the_request_when_it_is_released() -> None:
    """The node that waits tells of nothing before: it has nothing of the request."""
    with running_cluster(agents=2) as cluster:
        (manager,), agents = cluster.managers, cluster.agents
        shell = operator(cluster)
        cluster.create_secret("db", b"first")
        create = ("service", "create", "app", "--secret", "db", "--global", "--uid", str(UID))
        shell.ok(*create, *GROUPS)
        asked = followed(manager, shell, "secret", "rotate", "db", "-", stdin=b"second")
        canary, released = sorted(told(agent, asked)["revision"] for agent in agents)
        entries = shell.ok("audit", "query", "--action", "secret.issue", "--format", "json")
        issued = [json.loads(line) for line in entries.splitlines()]
        at = sorted(one["position"] for one in issued if one["detail"].endswith("/2"))
        assert len(at) == 2, "each node's receipt"
        assert at[0] <= canary < at[1] <= released
