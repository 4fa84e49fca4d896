"""The commands of docs/how-to/service-logs.md against a real manager, agent and program."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.support.command_line import CommandLine
from tests.support.running import SCRIPTS, AgentProcess, Process, empty_cluster, wait_until

UID = "23901"
PROGRAM = """
echo "listening on 8080"
echo "login with $(cat /run/secrets/db) failed" >&2
while :; do [ -e {go} ] && echo went; sleep 0.2; done
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One manager, one agent, and an admin."""

    admin: CommandLine
    agent: AgentProcess

    def logs(self, *words: str) -> list[dict[str, str]]:
        """Return the lines that `service logs` prints."""
        said = self.admin.ok("service", "logs", "web", "--format", "json", *words)
        return [json.loads(line) for line in said.splitlines()]

    @contextmanager
    def program(self) -> Iterator[Process]:
        """Run the program as web, on the node."""
        go = self.agent.run_dir.parent / "go"
        command = [str(SCRIPTS / "strongroom-agent"), "exec", "--service", "web"]
        command += ["--run-dir", str(self.agent.run_dir), "--"]
        command += ["sh", "-c", PROGRAM.format(go=go)]
        process = Process("web", command, self.admin.home / "web.log", self.admin.env)
        process.start()
        try:
            yield process
        finally:
            process.stop()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with empty_cluster() as cluster:
        manager = cluster.add_manager()
        admin = CommandLine(cluster.base / "admin")
        key_file = admin.home / "unlock.key"
        admin.ok(
            "init", "--engine", "sqlite", "--trust-domain", "logs.test",
            "--unlock-key-file", str(key_file), "--admin-socket", str(manager.admin_socket),
        )  # fmt: skip
        cluster.unlock_key = key_file.read_text().strip()
        agent = AgentProcess("w1", cluster.base / "w1", cluster.env)
        cluster.agents.append(agent)
        token = admin.ok("token", "create", "--role", "worker")
        admin.ok(
            "join", "--name", "w1", "--data-dir", str(agent.data_dir), "--manager", manager.join,
            stdin=token.encode(), program="strongroom-agent",
        )  # fmt: skip
        agent.start()
        admin.ok("secret", "create", "db", stdin=b"hunter22")
        admin.ok("service", "create", "web", "--secret", "db", "--uid", UID)
        yield Stage(admin, agent)


@pytest.mark.slow
@pytest.mark.needs_root
def test_what_a_service_printed_is_shown_without_its_secret(stage: Stage) -> None:
    """Also after a rotation, and after its agent was killed: the keeper is neither's child."""
    refused = stage.admin.refused(1, "service", "logs", "web")
    assert "keeps no log" in refused
    assert stage.admin.ok("service", "update", "web", "--logs").startswith("spec 2 on 1 of 1 node")
    with stage.program() as process:
        wait_until(lambda: "login with hunter22" in process.text(), "it goes where exec prints")
        wait_until(lambda: len(stage.logs()) == 2, "both lines are kept")
        by_stream = {line["stream"]: line["text"] for line in stage.logs()}
        assert by_stream == {
            "stdout": "listening on 8080",
            "stderr": "login with [redacted] failed",
        }
        stage.admin.ok("secret", "rotate", "db", stdin=b"another-value")
        stage.agent.kill()
        stage.agent.start()
        wait_until(lambda: len(stage.logs()) == 2, "the new agent asks the same keeper")
        assert "hunter22" not in json.dumps(stage.logs())
        done = stage.admin.run("service", "logs", "web", "--tail", "20", "--timestamps")
        assert "web@w1 | listening on 8080\n" in done.stdout
        assert "web@w1 | login with [redacted] failed\n" in done.stderr
        follower = stage.admin.start("service", "logs", "web", "--follow")
        try:
            wait_until(lambda: "listening" in follower.text(), "it begins with what is there")
            (stage.agent.run_dir.parent / "go").touch()
            wait_until(lambda: "web@w1 | went" in follower.text(), "it goes on")
        finally:
            follower.stop()
    wait_until(lambda: stage.logs() == [], "the log ends with the program")
    assert stage.admin.run("service", "update", "web", "--no-logs").code == 0
    assert "keeps no log" in stage.admin.refused(1, "service", "logs", "web")
