"""One request, followed from the command to the node that it reached."""

import json

from tests.support.command_line import CommandLine
from tests.support.running import AgentProcess, running_cluster, wait_until


def applied(agent: AgentProcess) -> list[int]:
    """Return the revisions that the agent's log says were put in place."""
    lines = [json.loads(line) for line in agent.text().splitlines() if line.startswith("{")]
    return [line["revision"] for line in lines if line["event"] == "assignments.applied"]


def test_request_id_leads_from_the_command_to_the_nodes_log() -> None:
    """The command's id finds the manager's line and the entry in the audit; the entry's position is
    the revision from which on the agent's line has what the request changed."""
    with running_cluster(agents=1) as cluster:
        (manager,), (agent,) = cluster.managers, cluster.agents
        shell = CommandLine(cluster.base / "shell")
        shell.ok("operator", "renew", "admin", "--admin-socket", str(manager.admin_socket))
        cluster.create_secret("db", b"first")
        cluster.create_service("web", 20_001, "db")
        wait_until(lambda: agent.read("web", "db") == b"first", "the file is there")
        before = applied(agent)
        done = shell.run("secret", "rotate", "-v", "db", "-", stdin=b"second")
        assert done.code == 0, done.stderr
        wait_until(lambda: agent.read("web", "db") == b"second", "the new value is there")
        (request_id,) = {
            line["request_id"]
            for line in map(json.loads, manager.text().splitlines())
            if line.get("request_id", "-") in done.stderr
            and line.get("route", "").endswith("/versions")
        }
        shown = shell.ok("audit", "query", "--request-id", request_id, "--format", "json")
        (entry,) = [json.loads(line) for line in shown.splitlines()]
        assert (entry["action"], entry["resource"]) == ("secret.rotate", "secret/db")
        assert max(before) < entry["position"]
        wait_until(lambda: max(applied(agent)) >= entry["position"], "the agent's log tells of it")
