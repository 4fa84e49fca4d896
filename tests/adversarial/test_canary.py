"""A known random value is created, issued, mounted and rotated; then it is searched for everywhere.

Everywhere: engine files, logs, error bodies, command lines, environments, temporary directories,
run directories, what operators read, swap, a core dump. Each search first finds what was planted
beside.
"""

import base64
import contextlib
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cluster.protocol.https_client import request
from cluster.system import SystemClock, SystemEntropy
from tests.support.attacker import RawSession, join_node
from tests.support.issuing import issue
from tests.support.running import (
    TRUST_DOMAIN,
    Credential,
    Process,
    RunningCluster,
    running_cluster,
    wait_until,
)
from tests.support.tracing import is_open_to_its_user, locked_kb

NAME = "canary-name-b7"
SERVICE = "canary-service-b7"
NODE = "canary-node-b7"
NODE_LABEL = re.compile(rb'[{,]node="([^"]*)"')


def forms(value: bytes) -> set[bytes]:
    """Return how a value may lie around: as it is, in hex, in base64 at each of its offsets."""
    found = {value, value.hex().encode(), value.hex().upper().encode()}
    for shift in range(3):
        # The first and the last letters depend on the neighbours.
        encoded = base64.b64encode(bytes(shift) + value)[4:-4]
        found |= {encoded, encoded.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def found_in(path: Path, needles: set[bytes]) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return any(needle in content for needle in needles)


def files_with(root: Path, needles: set[bytes], but: tuple[Path, ...] = ()) -> list[Path]:
    """Return the files under `root` that hold one of the needles; mounts of services are `but`."""
    return [
        path
        for path in sorted(root.rglob("*"))
        if not any(path.is_relative_to(one) for one in but)
        and path.is_file()
        and found_in(path, needles)
    ]


def processes_with(needles: set[bytes], names: tuple[str, ...]) -> list[str]:
    """Return the entries of /proc that show one of the needles."""
    return [
        f"{path}"
        for process in Path("/proc").iterdir()
        if process.name.isdigit()
        for path in (process / name for name in names)
        if found_in(path, needles)
    ]


@dataclass
class Stage:
    """A cluster through which canaries went, and every error it gave on the way."""

    cluster: RunningCluster
    values: list[bytes]
    errors: bytes = b""
    needles: set[bytes] = field(default_factory=set)
    started_s: float = field(default_factory=lambda: SystemClock().now().timestamp())

    def processes(self) -> list[Process]:
        return [*self.cluster.managers, *self.cluster.agents]


@pytest.fixture(scope="module", params=["sqlite", "etcd"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    entropy = SystemEntropy()
    values = [b"canary-" + entropy.token(12).hex().encode() + entropy.token(8) for _ in range(3)]
    hard = resource.getrlimit(resource.RLIMIT_CORE)
    # What our processes inherit allows a core dump: if there is none, it is their doing.
    resource.setrlimit(resource.RLIMIT_CORE, (hard[1], hard[1]))
    try:
        with running_cluster(agents=1, engine=request.param) as cluster:
            stage = Stage(cluster, values)
            stage.needles = set().union(*map(forms, values))
            use(stage)
            yield stage
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, hard)


def use(stage: Stage) -> None:
    """Send the values along every way they may go, those that end in an error included."""
    cluster, (first, second, third) = stage.cluster, stage.values
    agent = cluster.agents[0]
    cluster.create_secret(NAME, first)
    cluster.create_service(SERVICE, 20_003, NAME)
    cluster.rotate(NAME, second)
    assert agent.read(SERVICE, NAME) == second
    node = Credential.of_node(agent.data_dir)
    assert issue(cluster, SERVICE, NAME, node).body["value"] == second
    stranger, _ = join_node(cluster, "stranger")
    for path, body, credential in (
        (f"/v1/secrets?name={NAME}", third, None),
        ("/v1/secrets?name=-bad-", third, None),
        ("/v1/secrets/no-such/versions", third, None),
        (f"/v1/secrets/{NAME}/versions", third * 30_000, None),
        (f"/v1/secrets/{NAME}/versions", third, node),
        ("/v1/services", b'{"valeu": "' + third.hex().encode() + b'"}', None),
        ("/v1/issue", b'{"service": "x", "secret": "' + third.hex().encode() + b'"}', stranger),
    ):
        answer = cluster.call("POST", path, body, credential=credential)
        assert answer.status >= 400
        stage.errors += repr((answer.body, answer.headers)).encode()
    # A command reads the value from its standard input, and an agent restarts with it mounted.
    agent.kill()
    agent.start()
    wait_until(lambda: agent.text().count("link.opened") == 2, "the agent is back")
    assert agent.read(SERVICE, NAME) == second


def mounts(stage: Stage) -> tuple[Path, ...]:
    return tuple(agent.run_dir / "secrets" for agent in stage.cluster.agents)


@pytest.mark.threat("T-01")
def test_engine_files_hold_no_value_and_no_name(stage: Stage) -> None:
    """Log, snapshots and files of the engine, and the seal file, while it runs."""
    needles = stage.needles | {NAME.encode(), SERVICE.encode(), b"20003"}
    for manager in stage.cluster.managers:
        data = manager.base / "data"
        planted = data / "engine" / "planted"
        planted.write_bytes(b"\x00" * 99 + base64.b64encode(b"x" + stage.values[0]) + b"\x00")
        assert files_with(data, needles) == [planted]
        planted.unlink()
        assert sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) > 10_000


@pytest.mark.threat("T-18")
def test_no_file_holds_a_value(stage: Stage) -> None:
    """Data, run and temporary directories and logs of every process; the mount alone has it."""
    base = stage.cluster.base
    own = mounts(stage)
    assert files_with(base, stage.needles, but=own) == []
    # The control: without the exception for the mounts the same search finds the file.
    assert {path.name for path in files_with(own[0], stage.needles)} == {NAME}
    planted = base / "planted.log"
    planted.write_bytes(b"x" * 5 + stage.values[1].hex().encode())
    assert files_with(base, stage.needles, but=own) == [planted]
    planted.unlink()


@pytest.mark.threat("T-18")
def test_no_temporary_file_holds_a_value(stage: Stage) -> None:
    """The usual places for what a program puts down for a moment."""
    places = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # searched, not used
    with contextlib.ExitStack() as stack:
        planted = []
        for place, value in zip(places, stage.values, strict=True):
            file = stack.enter_context(tempfile.NamedTemporaryFile(dir=place, prefix="planted-"))
            file.write(b"\x00" * 7 + base64.b64encode(value))
            file.flush()
            planted.append(Path(file.name))
        assert temporary_with(stage, places) == planted
    assert temporary_with(stage, places) == []


def temporary_with(stage: Stage, places: tuple[Path, ...]) -> list[Path]:
    """Return the files that came about since the start, outside of the cluster's own, with one."""
    return [
        path
        for place in places
        for directory, _, names in os.walk(place)  # which passes over what goes away meanwhile
        for path in (Path(directory, name) for name in names)
        if not path.is_relative_to(stage.cluster.base)
        and _is_file_since(path, stage.started_s)
        and found_in(path, stage.needles)
    ]


def _is_file_since(path: Path, started_s: float) -> bool:
    try:
        return path.is_file() and path.stat().st_mtime >= started_s
    except OSError:
        return False


@pytest.mark.threat("T-18")
def test_no_error_holds_a_value(stage: Stage) -> None:
    """Seven refusals of requests that carried the third value; errors are kept as their repr."""
    third = stage.values[2]
    needles = {*stage.needles, repr(third).encode()[2:-1]}
    assert len(stage.errors) > 500
    assert [needle for needle in needles if needle in stage.errors] == []
    # What an answer that echoes would have left, in each way that it would.
    for echo in ({"input": third}, {"input": third.hex()}, {"input": base64.b64encode(third)}):
        kept = stage.errors + repr((echo, {})).encode()
        assert [needle for needle in needles if needle in kept], echo


@pytest.mark.threat("T-42")
@pytest.mark.threat("T-45")
def test_audit_and_metrics_hold_no_value_and_metrics_no_name(stage: Stage) -> None:
    """What tells of every use of a value: the audit names the secret, the metrics only count."""
    beginnings = {value[:31] for value in stage.values}
    page = stage.cluster.ok("GET", "/v1/audit")
    assert page["next"] is None
    audit = repr(page).encode()
    assert NAME.encode() in audit
    assert [needle for needle in stage.needles | beginnings if needle in audit] == []
    metrics, node_id = metrics_with_a_node_behind(stage.cluster)
    (delivered,) = [
        line for line in metrics.splitlines() if line.startswith(b"strongroom_deliveries_total ")
    ]
    assert float(delivered.split()[1]) >= 2
    secrets = stage.needles | beginnings | {NAME.encode(), SERVICE.encode(), NODE.encode()}
    assert [needle for needle in secrets if needle in metrics] == []
    assert set(NODE_LABEL.findall(metrics)) == {node_id.encode()}


def metrics_with_a_node_behind(cluster: RunningCluster) -> tuple[bytes, str]:
    """Return metrics that tell of a node by itself, and its id: it is handed what it never acks."""

    def metrics() -> bytes:
        return bytes(cluster.call("GET", "/metrics").body["value"])

    credential, node_id = join_node(cluster, NODE)
    session = RawSession(cluster.managers[0], credential)
    try:
        session.hello()
        service = {"name": f"{SERVICE}-behind", "uid": 20_004, "gid": 20_004}
        constraints = [f"node.name=={NODE}"]
        references = [{"source": NAME}]
        cluster.ok(
            "POST", "/v1/services",
            {**service, "references": references, "constraints": constraints},
        )  # fmt: skip
        wait_until(lambda: NODE_LABEL.search(metrics()), "a node that is behind")
        return metrics(), node_id
    finally:
        session.close()
        cluster.ok("DELETE", f"/v1/nodes/{NODE}")


@pytest.mark.threat("T-18")
def test_nothing_that_is_read_of_a_manager_holds_a_value(stage: Stage) -> None:
    """Metrics, the audit, status and every list: what an admin reads as often as he likes."""
    cluster = stage.cluster
    assert cluster.operator is not None
    described = cluster.call("GET", "/openapi.json").body["paths"]
    paths = [path for path, methods in described.items() if "get" in methods and "{" not in path]
    paths += [f"/v1/secrets/{NAME}", f"/v1/secrets/{NAME}/where", f"/v1/services/{SERVICE}/tasks"]
    read = b"".join(
        request(
            [cluster.managers[0].api], "GET", path, context=cluster.operator.context(),
            trust_domain=TRUST_DOMAIN, timeout_s=60,
        ).body
        for path in sorted(paths)
        if path != "/v1/events"  # never ends; its entries are those of the audit
    )  # fmt: skip
    assert NAME.encode() in read, "the control: names are shown"
    assert {"/metrics", "/v1/audit"} <= set(paths)
    assert [needle for needle in stage.needles if needle in read] == []


@pytest.mark.threat("T-18")
@pytest.mark.threat("T-21")
def test_no_swap_holds_a_value(stage: Stage) -> None:
    """Memory is locked and the mount takes no part in swap; no machine here has swap to search."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as careless:
        assert locked_kb(careless.pid) == 0, "the control: a plain process locks nothing"
        for process in stage.processes():
            assert locked_kb(process.pid) > 0
            status = Path(f"/proc/{process.pid}/status").read_text()
            swapped = next(line for line in status.splitlines() if line.startswith("VmSwap"))
            assert swapped.split()[1] == "0"
        assert careless.stdin is not None
        careless.stdin.write(b"\n")
    options = [line for line in Path("/proc/mounts").read_text().splitlines() if SERVICE in line]
    assert options, "the service's mount is there"
    noswap = [line for line in options if "noswap" in line]
    if kernel_knows_noswap():
        assert noswap == options
    else:
        assert not Path("/proc/swaps").read_text().splitlines()[1:]


def kernel_knows_noswap() -> bool:
    """Return whether a tmpfs can be mounted `noswap` (Linux 6.4)."""
    major, minor = platform.release().split(".")[:2]
    return (int(major), int(re.match(r"\d+", minor)[0])) >= (6, 4)  # type: ignore[index]  # a release


@pytest.mark.threat("T-18")
def test_no_command_line_and_no_environment_holds_a_value(stage: Stage) -> None:
    planted = {**os.environ, "PLANTED": stage.values[0].hex()}
    command = [sys.executable, "-c", "import time; time.sleep(60)", stage.values[1].hex()]
    with subprocess.Popen(command, env=planted) as careless:
        try:
            wait_until(
                lambda: len(processes_with(stage.needles, ("cmdline", "environ"))) == 2,
                "the planted values are found, and nothing else",
            )
            shown = processes_with(stage.needles, ("cmdline", "environ"))
        finally:
            careless.kill()
    assert {Path(path).parent.name for path in shown} == {str(careless.pid)}


# Last: it ends the processes.
@pytest.mark.threat("T-18")
@pytest.mark.threat("T-29")
def test_crash_leaves_no_core_dump(stage: Stage, tmp_path: Path) -> None:
    """Aborted with the limit raised by their parent; a plain Python in the same place dumps.

    Two walls: the limit, and that they are not dumpable, which closes ptrace and /proc too.
    """
    dumped = crash_of_a_plain_process(tmp_path)
    for process in stage.processes():
        assert limit_of_dumps(process.pid) == 0
        assert not is_open_to_its_user(process.pid)
        cwd = Path(f"/proc/{process.pid}/cwd").resolve()
        before = set(cwd.iterdir()) | set(dumped)
        os.kill(process.pid, signal.SIGABRT)
        assert process.child is not None
        status = process.child.wait(30)
        assert status == -signal.SIGABRT
        places = {cwd, *(path.parent for path in dumped)}
        new = {path for place in places for path in place.iterdir()} - before
        assert [path for path in new if found_in(path, stage.needles)] == []
        assert [path for path in new if path.name.startswith("core")] == []
    own = mounts(stage)
    assert files_with(stage.cluster.base, stage.needles, but=own) == []


def limit_of_dumps(pid: int) -> int:
    """Return the soft limit of core size of a process."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max core file size"):
            soft = line.split()[4]
            return -1 if soft == "unlimited" else int(soft)
    raise AssertionError("no such limit")


def crash_of_a_plain_process(directory: Path) -> list[Path]:
    """Return the core files that an unhardened process leaves where the kernel writes files."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    script = "import os, sys; sys.stdin.read(); os.abort()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=directory, stdin=subprocess.PIPE) as crashed:
        assert limit_of_dumps(crashed.pid) != 0
        assert is_open_to_its_user(crashed.pid)
    assert crashed.returncode == -signal.SIGABRT
    if pattern.startswith("|"):
        return []  # a helper takes it; the processes' own limits are what is checked then
    place = Path(pattern).parent if pattern.startswith("/") else directory
    wait_until(lambda: any(place.glob("core*")), "a core file", patience_s=30)
    return sorted(place.glob("core*"))
