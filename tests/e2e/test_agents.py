"""Agents that die, return and lose their mounts, beside services that notice nothing."""

import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.cli import zipapp
from tests.support.running import (
    AgentProcess,
    Process,
    RunningCluster,
    running_cluster,
    wait_until,
)

PYTHON = "/usr/bin/python3"
_READER = """
import os, signal, time
told = 0
def take(number, frame):
    global told
    told += 1
signal.signal(signal.SIGHUP, take)
while True:
    try:
        value = open("/run/secrets/{name}", "rb").read().decode()
    except OSError as error:
        value = f"error {{error.errno}}"
    print(os.getpid(), os.getuid(), told, value, flush=True)
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """One manager on SQLite and one agent."""
    with running_cluster(agents=1) as running:
        yield running


@pytest.fixture
def agent(cluster: RunningCluster) -> AgentProcess:
    """The agent, running."""
    (agent,) = cluster.agents
    if not agent.running:
        agent.start()
    return agent


class Service(Process):
    """A program under `strongroom-agent exec` that prints what it reads, again and again."""

    def __init__(self, cluster: RunningCluster, agent: AgentProcess, name: str, file: str) -> None:
        argv = [
            agent.argv[0], "exec", "--service", name,
            "--run-dir", str(agent.run_dir), "--",
            PYTHON, "-I", "-c", _READER.format(name=file),
        ]  # fmt: skip
        super().__init__(name, argv, cluster.base / f"{name}.log", cluster.env)

    def lines(self) -> list[list[str]]:
        """Return what it printed, each line in words: pid, uid, signals taken, value."""
        return [line.split(" ", 3) for line in self.text().splitlines()]

    def values(self) -> list[str]:
        """Return the values it read, in order, repetitions once."""
        seen: list[str] = []
        for *_, value in self.lines():
            if seen[-1:] != [value]:
                seen.append(value)
        return seen


@contextmanager
def _service(
    cluster: RunningCluster, agent: AgentProcess, name: str, file: str
) -> Iterator[Service]:
    service = Service(cluster, agent, name, file)
    service.start()
    try:
        wait_until(service.lines, f"{name} runs")
        yield service
    finally:
        service.stop()


def test_an_agent_that_dies_is_not_noticed_by_its_service(
    cluster: RunningCluster, agent: AgentProcess
) -> None:
    """kill -9 and a new agent: the same pid reads the file at every moment, through a rotation made
    by the new agent."""
    cluster.create_secret("steady", b"one")
    cluster.create_service("steady", 24_001, "steady")
    with _service(cluster, agent, "steady", "steady") as service:
        device = agent.mount("steady").stat().st_dev
        agent.kill()
        seen = len(service.lines())
        wait_until(lambda: len(service.lines()) > seen + 5, "it reads on without an agent")
        agent.start()
        wait_until(lambda: cluster.node(agent.name)["state"] == "ready", "the agent is back")
        cluster.rotate("steady", b"two")
        wait_until(lambda: service.values()[-1] == "two", "the service reads the new value")
        assert service.values() == ["one", "two"]
        assert len({pid for pid, *_ in service.lines()}) == 1
        assert {uid for _, uid, *_ in service.lines()} == {"24001"}
        assert agent.mount("steady").stat().st_dev == device


def test_a_rebooted_node_mounts_again_by_itself(
    cluster: RunningCluster, agent: AgentProcess
) -> None:
    """Agent killed, mounts gone with the memory: started again, it mounts what it should."""
    cluster.create_secret("booted", b"value")
    cluster.create_service("booted", 24_010, "booted")
    agent.lose_power()
    assert agent.read("booted", "booted") is None
    agent.start()
    wait_until(lambda: agent.read("booted", "booted") == b"value", "it is mounted again")


def test_changes_made_while_an_agent_is_away_reach_it(
    cluster: RunningCluster, agent: AgentProcess
) -> None:
    """A rotation, a new service and a removed one: the next snapshot brings all of it."""
    cluster.create_secret("awaited", b"one")
    cluster.create_service("awaited", 24_020, "awaited")
    cluster.create_service("dropped", 24_021, "awaited")
    agent.kill()
    rotated = cluster.ok("POST", "/v1/secrets/awaited/versions", b"two")
    cluster.ok("DELETE", "/v1/services/dropped")
    draft = {
        "name": "added", "uid": 24_022, "gid": 24_022,
        "references": [{"source": "awaited"}], "constraints": [f"node.name=={agent.name}"],
    }  # fmt: skip
    cluster.ok("POST", "/v1/services", draft)
    assert agent.read("awaited", "awaited") == b"one"
    agent.start()
    cluster.wait_rollout(rotated["rollout"])
    wait_until(lambda: agent.read("added", "awaited") == b"two", "the new service is mounted")
    wait_until(lambda: agent.read("dropped", "awaited") is None, "the removed one is gone")
    assert agent.read("awaited", "awaited") == b"two"


def test_a_service_reads_by_file_get_and_ls(cluster: RunningCluster, agent: AgentProcess) -> None:
    """Inside `exec`: the file, `strongroom-agent get` and `ls`, and nothing of another service."""
    cluster.create_secret("mine", b"\x00mine\xff")
    cluster.create_secret("theirs", b"theirs")
    cluster.create_service("reads", 24_030, "mine")
    cluster.create_service("other", 24_031, "theirs")
    archive = cluster.base / "strongroom-agent.pyz"
    zipapp.build(archive)
    archive.chmod(0o755)

    def inside(*words: str) -> tuple[int, bytes, bytes]:
        done = subprocess.run(
            [
                agent.argv[0], "exec", "--service", "reads",
                "--run-dir", str(agent.run_dir), "--", *words,
            ],
            capture_output=True, env=cluster.env, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    command = (PYTHON, "-I", str(archive))
    assert inside("/bin/cat", "/run/secrets/mine")[:2] == (0, b"\x00mine\xff")
    assert inside(*command, "get", "mine") == (0, b"\x00mine\xff", b"")
    code, listed, _ = inside(*command, "ls", "-q")
    assert (code, listed) == (0, b"mine\n")
    code, value, said = inside(*command, "get", "theirs")
    assert code != 0
    assert value == b""
    assert said
    assert inside("/bin/ls", "/run/secrets")[1].split() == [b"mine"]
    assert inside("/usr/bin/id", "-u")[1] == b"24030\n"
    assert inside("/bin/sh", "-c", "exit 7")[0] == 7
    kept = inside("/bin/grep", "-E", "^(NoNewPrivs|CapEff|Seccomp):", "/proc/self/status")[1]
    facts = dict(line.split(":\t") for line in kept.decode().splitlines())
    assert facts["NoNewPrivs"] == "1"
    assert int(facts["CapEff"], 16) == 0


def test_a_rotation_signals_the_service(cluster: RunningCluster, agent: AgentProcess) -> None:
    """on_change HUP: the running program takes one signal for each swap, after the new value is
    there."""
    cluster.create_secret("signalled", b"one")
    cluster.create_service("told", 24_040, "signalled", on_change={"signal": "HUP"})
    with _service(cluster, agent, "told", "signalled") as service:
        cluster.rotate("signalled", b"two")
        wait_until(lambda: service.lines()[-1][2:] == ["1", "two"], "the signal arrived")
        cluster.rotate("signalled", b"three")
        wait_until(lambda: service.lines()[-1][2:] == ["2", "three"], "the next one too")


def test_a_rotation_runs_a_command_as_the_service(
    cluster: RunningCluster, agent: AgentProcess
) -> None:
    """The command has the service's uid and sees the new file; one that hangs is ended."""
    place = cluster.base / "noted"
    place.mkdir()
    place.chmod(0o777 | stat.S_ISVTX)
    note = place / "note"
    script = (
        f"/usr/bin/id -u > {note}.new; /bin/cat /run/secrets/run-after >> {note}.new; "
        f"/bin/mv {note}.new {note}"
    )
    cluster.create_secret("run-after", b"one")
    on_change = {"command": ["/bin/sh", "-c", script]}
    cluster.create_service("noting", 24_050, "run-after", on_change=on_change)
    cluster.rotate("run-after", b"two")
    wait_until(lambda: note.exists() and note.read_bytes() == b"24050\ntwo", "the command ran")

    pid_file = place / "pid"
    hang = f"echo started > {pid_file}; exec /bin/sleep 1000"
    cluster.create_service(
        "hanging", 24_051, "run-after",
        on_change={"command": ["/bin/sh", "-c", hang], "timeout_s": 0.5},
    )  # fmt: skip
    cluster.rotate("run-after", b"three")
    wait_until(pid_file.exists, "the command started")
    wait_until(lambda: "on_change.timed_out" in agent.text(), "it was ended")
    assert agent.read("hanging", "run-after") == b"three"


def test_a_service_that_refuses_a_value_is_shown_unhealthy(
    cluster: RunningCluster, agent: AgentProcess
) -> None:
    """The service's own check judges each value; a new session is told what the last one was."""
    script = "grep -q ^good- /run/secrets/judged || exit 3"
    health = {"command": ["/bin/sh", "-c", script], "interval_s": 0.5, "retries": 2}
    cluster.create_secret("judged", b"good-1")
    cluster.create_service("judges", 24_070, "judged", health=health)

    def shown() -> tuple[object, ...]:
        (task,) = cluster.ok("GET", "/v1/services/judges/tasks")["tasks"]
        (reference,) = task["references"]
        return reference["version_mounted"], task["health"], task["health_detail"]

    wait_until(lambda: shown() == (1, "healthy", ""), "the first value is taken")
    cluster.ok("POST", "/v1/secrets/judged/versions", b"bad")
    wait_until(lambda: shown() == (2, "unhealthy", "exit status 3"), "the bad one is refused")
    agent.kill()
    failed = agent.text().count("health.failed")
    agent.start()
    wait_until(lambda: agent.text().count("health.failed") > failed, "a new agent checks anew")
    assert shown() == (2, "unhealthy", "exit status 3")
    cluster.ok("POST", "/v1/secrets/judged/versions", b"good-3")
    wait_until(lambda: shown() == (3, "healthy", ""), "the next one is taken")


def test_a_hanging_check_ends_with_its_killed_agent(
    cluster: RunningCluster, agent: AgentProcess
) -> None:
    """What the agent runs in a service never outlives it; the service's own program does."""
    place = cluster.base / "hung"
    place.mkdir()
    place.chmod(0o777 | stat.S_ISVTX)
    began = place / "began"
    script = f"echo $$ > {began}; exec /bin/sleep 1001"
    health = {"command": ["/bin/sh", "-c", script], "timeout_s": 300.0}
    cluster.create_secret("hung", b"value")
    cluster.create_service("hangs-on", 24_080, "hung")
    with _service(cluster, agent, "hangs-on", "hung") as service:
        draft = {"name": "hangs-on", "uid": 24_080, "gid": 24_080, "health": health}
        spec = {**draft, "references": [{"source": "hung"}]}
        cluster.ok("PUT", "/v1/services/hangs-on", {"spec": spec, "expected_spec_number": 1})
        wait_until(began.exists, "the check hangs")
        assert _commands_of(24_080, b"1001")
        agent.kill()
        wait_until(lambda: not _commands_of(24_080, b"1001"), "it went with the agent")
        seen = len(service.lines())
        wait_until(lambda: len(service.lines()) > seen, "the service runs on")


def _commands_of(uid: int, word: bytes) -> list[str]:
    """Return the processes of a uid that have `word` on their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.stat().st_uid == uid and word in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


def test_a_stopped_agent_keeps_the_files_of_its_services(
    cluster: RunningCluster, agent: AgentProcess
) -> None:
    """SIGTERM is no eviction: the mounts stay, also those with a file of mode 0400."""
    cluster.create_secret("kept", b"value")
    cluster.create_service("keeps", 24_060, "kept")
    assert agent.stop() == 0
    assert agent.read("keeps", "kept") == b"value"
    agent.start()
    wait_until(lambda: cluster.node(agent.name)["state"] == "ready", "the agent is back")
    assert agent.read("keeps", "kept") == b"value"


def test_join_that_cannot_print_says_so_and_can_be_repeated(cluster: RunningCluster) -> None:
    """The node has joined; its id is what could not be told."""
    token = cluster.ok("POST", "/v1/tokens", {"role": "worker"})["token"]
    argv = [
        cluster.agents[0].argv[0], "join", "--name", "unheard",
        "--data-dir", str(cluster.base / "unheard"), "--manager", cluster.managers[0].join,
    ]  # fmt: skip

    def join(shell: str) -> tuple[int, str, str]:
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {shell}', "sh", *argv],
            input=token, capture_output=True, text=True, env=cluster.env, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    full = "strongroom-agent: standard output: No space left on device\n"
    assert join(">/dev/full") == (1, "", full)
    assert join(">&-") == (1, "", "strongroom-agent: standard output is closed\n")
    assert join("") == (0, f"{cluster.node('unheard')['id']}\n", "")
    cluster.ok("DELETE", "/v1/nodes/unheard")
