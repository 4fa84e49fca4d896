"""`exec`: the program gets its secrets and no right; signals and exit codes pass through."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent import seccomp
from agent.launch import Launch, default_environment, exec_service
from agent.mounts import File
from cluster.protocol.secret_bytes import SecretBytes
from tests.support.node import PYTHON, Node, finished, running_node, start_agent_command


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with running_node(tmp_path) as running:
        yield running


async def test_service_runs_with_its_uid_and_no_rights(node: Node) -> None:
    """Uid, gid, no groups, five empty capability sets, no new privileges, a filter, no dumps."""
    done = await node.run_exec("red", "cat", "/proc/self/status", "/proc/self/limits")
    fields = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    found = {name: value.split() for name, value in fields.items()}
    assert found["Uid"] == found["Gid"] == ["61001"] * 4
    assert found["Groups"] == []
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[capabilities][0], 16) == 0
    assert (found["NoNewPrivs"], found["Seccomp"]) == (["1"], ["2"])
    (limit,) = [li for li in done.stdout.splitlines() if li.startswith("Max core file size")]
    assert limit.split()[4] == "1"


async def test_roots_supplementary_groups_are_dropped(node: Node) -> None:
    """A supervisor in groups 7 and 8 starts a service in none."""
    command = ["setpriv", "--groups", "7,8", sys.executable, "-m", "agent.cli.main", "exec"]
    command += ["--run-dir", str(node.run_directory), "--service", "red", "--"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, "id", "-G", stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert (await finished(process)).stdout == "61001\n"


async def test_service_sees_its_secrets_read_only_and_hardened(node: Node) -> None:
    """/run/secrets is the service's tmpfs with every flag, and its files are readable."""
    done = await node.run_exec("red", "cat", "/proc/self/mountinfo", "/run/secrets/db")
    assert done.stdout.endswith("red-value")
    (line,) = [li for li in done.stdout.splitlines() if " /run/secrets " in li]
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))
    assert "noswap" in line
    (proc, *_) = [li for li in reversed(done.stdout.splitlines()) if " /proc " in li]
    assert "hidepid=invisible" in proc or "hidepid=2" in proc


async def test_host_sees_nothing_of_the_service_mounts(node: Node) -> None:
    """The view is private: no mount leaks out of the namespace."""
    process = await node.start_exec("red", "sh", "-c", "echo ready; exec sleep 60")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    try:
        table = await asyncio.to_thread(Path("/proc/self/mountinfo").read_text)
        assert " /run/secrets " not in table
    finally:
        process.terminate()
    assert (await finished(process)).code == 128 + signal.SIGTERM


async def test_rotation_reaches_a_running_service(node: Node) -> None:
    """The service's view is the same filesystem: a new set appears in place."""
    wait = (
        "import time\n"
        "while open('/run/secrets/db').read() == 'red-value': time.sleep(0.01)\n"
        "print(open('/run/secrets/db').read())"
    )
    process = await node.start_exec("red", PYTHON, "-I", "-c", wait)
    node.mounts["red"].publish([File("db", SecretBytes(b"rotated"))])
    assert (await finished(process)).stdout == "rotated\n"


async def test_revocation_empties_a_running_service(node: Node) -> None:
    """The service's own copy of the mount cannot be taken away, so its content is."""
    script = (
        "import os, sys\n"
        "held = open('/run/secrets/db', 'rb', buffering=0)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(os.listdir('/run/secrets'), held.read())"
    )
    process = await node.start_exec("red", PYTHON, "-I", "-c", script)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    node.mounts["red"].revoke()
    done = await finished(process, stdin=b"\n")
    assert done.stdout == f"[] {bytes(9)!r}\n"


async def test_ordinary_programs_run_unchanged_under_the_filter(node: Node) -> None:
    """Threads, child processes, pipes and a socket still work."""
    script = (
        "import socket, subprocess, threading\n"
        "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
        "print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout.strip())\n"
        "s = socket.create_server(('127.0.0.1', 0)); print('socket')"
    )
    done = await node.run_python("red", script)
    assert (done.stdout.split(), done.code) == (["thread", "child", "socket"], 0)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -KILL $$"), 128 + signal.SIGKILL),
        (("/nonexistent",), 127),
        (("/etc/passwd",), 126),
        (("/",), 126),
    ],
)
async def test_exit_codes_pass_through(node: Node, command: tuple[str, ...], code: int) -> None:
    """As a shell and docker report them."""
    assert (await node.run_exec("red", *command)).code == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
async def test_signals_reach_the_service(node: Node, number: signal.Signals) -> None:
    """Forwarded through the supervisor and pid 1, which would ignore most of them."""
    script = (
        "import signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [int(sys.argv[1])])\n"
        "print('ready', flush=True)\n"
        "print(int(signal.sigwait([int(sys.argv[1])])))"
    )
    command = [PYTHON, "-I", "-c", script, str(int(number))]
    process = await node.start_exec("red", *command)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    done = await finished(process)
    assert (done.code, done.stdout) == (0, f"{int(number)}\n")


async def test_service_ends_with_its_supervisor(node: Node) -> None:
    """kill -9 of the supervisor ends pid 1 of the namespace and so every process in it."""
    script = "import time; print('ready', flush=True); time.sleep(60)"
    process = await node.start_exec("red", PYTHON, "-I", "-c", script)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.kill()
    # End of file on the pipe: the last process that held it is gone.
    async with asyncio.timeout(30):
        assert await process.stdout.read() == b""
    await process.wait()


async def test_service_outlives_the_agent_and_meets_its_successor(node: Node) -> None:
    """The agent stops and starts again: the service kept running, and its socket works again."""
    script = (
        "import socket, sys\n"
        "def ask():\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect('/run/strongroom/workload.sock')\n"
        '    s.sendall(b\'{"v":1,"op":"get","name":"db"}\\n\')\n'
        "    print(s.makefile().read().splitlines()[-1], flush=True)\n"
        "ask(); sys.stdin.readline(); ask()"
    )
    process = await node.start_exec("red", PYTHON, "-I", "-c", script)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"red-value\n"
    await node.stop()
    await node.workload.open("red", node.uids["red"], node.uids["red"])
    done = await finished(process, stdin=b"\n")
    assert (done.code, done.stdout) == (0, "red-value\n")


async def test_orphans_are_reaped_and_do_not_hold_the_exit(node: Node) -> None:
    """A daemonised grandchild ends with the service."""
    done = await node.run_exec("red", "sh", "-c", "(sleep 60 &) ; exit 3")
    assert done.code == 3


async def test_environment_of_root_is_not_inherited(node: Node) -> None:
    """Root's environment may hold credentials; what is passed is named."""
    done = await node.run_python("red", "import json, os; print(json.dumps(dict(os.environ)))")
    assert set(json.loads(done.stdout)) <= {"PATH", "HOME", "TERM", "LANG", "LC_ALL", "TZ"} | {
        "LC_CTYPE"
    }
    assert default_environment({"A": "1", "B": "2"}, ["A"])["A"] == "1"
    assert "B" not in default_environment({"A": "1", "B": "2"}, ["A"])


async def test_unknown_or_unmounted_service_times_out(node: Node) -> None:
    """Exit 4 and what was missing."""
    arguments = ["exec", "--run-dir", str(node.run_directory), "--timeout", "1s"]
    done = await finished(await start_agent_command(*arguments, "--service", "gone", "--", "true"))
    assert done.code == 4
    assert "not placed on this node" in done.stderr
    node.mounts.pop("red")
    done = await finished(await start_agent_command(*arguments, "--service", "red", "--", "true"))
    assert done.code == 4
    assert "not mounted yet" in done.stderr


def test_root_is_never_a_service(tmp_path: Path) -> None:
    """Uid 0 would own its own cage."""
    with pytest.raises(ValueError, match="never runs as root"):
        exec_service(Launch(tmp_path, tmp_path / "w", 0, 5, ("true",)))


def test_filters_exist_for_both_architectures() -> None:
    """Same shape; an unknown machine has none, and that is said."""
    assert len(seccomp.build_filter("x86_64")) == len(seccomp.build_filter("aarch64")) + 16
    with pytest.raises(KeyError):
        seccomp.build_filter("riscv64")
    assert os.uname().machine in ("x86_64", "aarch64") or not seccomp.is_supported()
