"""Red against blue on one node: every attack runs as red's uid inside red's namespaces.

Each has a control: the same attack succeeds where its one mechanism is absent, so that a failure
here is the mechanism's doing and not a broken attack.
"""

import asyncio
import errno
import json
import os
import shutil
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.mounts import reachable_directory
from tests.support.node import PYTHON, Done, Node, finished, running_node

READ = "import sys; print(open(sys.argv[1]).read())"
CONNECT = (
    "import socket, sys\n"
    "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
    's.sendall(b\'{"v":1,"op":"get","name":"db"}\\n\')\n'
    "print(s.makefile().read())"
)
LIST = "import os, sys; print(os.listdir(int(sys.argv[1])))"
# Prints the errno of each system call, tried where it would do nothing: 0 is success.
SYSTEM_CALLS = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(8)
class Vec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
vec = Vec(ctypes.addressof(buffer), 8)
remote = ctypes.byref(vec)
def attempt(call, *arguments):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if call(*arguments) >= 0 else ctypes.get_errno())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def read_memory():
    return libc.process_vm_readv(os.getpid(), remote, 1, remote, 1, 0)
def syscall(number, *arguments):
    return libc.syscall(number, *arguments)
numbers = {"x86_64": (250, 425, 56), "aarch64": (219, 425, 220)}[os.uname().machine]
null = os.open("/dev/null", os.O_RDONLY)
print(json.dumps({
    "ptrace": attempt(libc.ptrace, 0, 0, 0, 0),
    "process_vm_readv": attempt(read_memory),
    "unshare_user": attempt(libc.unshare, 0x10000000),
    "clone_user": attempt(syscall, numbers[2], 0x10000000 | 17, 0, 0, 0, 0),
    "setns": attempt(libc.setns, os.open("/proc/self/ns/mnt", os.O_RDONLY), 0),
    "tiocsti": attempt(libc.ioctl, null, 0x5412, b"x"),
    "keyctl": attempt(syscall, numbers[0], 0, -3, 0),
    "io_uring_setup": attempt(syscall, numbers[1], 1, ctypes.create_string_buffer(256)),
}))
"""
WAIT = "import sys; print('ready', flush=True); sys.stdin.read()"


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node whose directories every uid could enter: the covers and the modes must hold."""
    with reachable_directory() as directory:
        async with running_node(directory) as running:
            yield running


async def run_outside(uid: int, script: str, *arguments: str) -> Done:
    """Run a script with a service's uid but with no namespace, filter or cover."""
    identity = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    return await run_plain([*identity, PYTHON, "-I", "-c", script, *arguments])


async def run_plain(command: list[str], cwd: Path | None = None) -> Done:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=cwd
    )
    return await finished(process)


@pytest.mark.threat("T-19")
@pytest.mark.control("T-19", without="agent/launch.py::exec_service")
async def test_red_cannot_open_blues_file(node: Node) -> None:
    """Covered in red's view; unreadable by red's uid without it; blue's uid reads that path."""
    path = str(node.mounts_root / "blue" / "db")
    assert "FileNotFoundError" in (await node.run_python("red", READ, path)).stderr
    assert "PermissionError" in (await run_outside(node.uids["red"], READ, path)).stderr
    assert (await run_outside(node.uids["blue"], READ, path)).stdout == "blue-value\n"


@pytest.mark.threat("T-19")
async def test_red_cannot_ask_blues_socket(node: Node) -> None:
    """Covered in red's view; closed to red's uid without it; blue's uid is answered there."""
    path = str(node.workload.socket_path("blue"))
    assert "FileNotFoundError" in (await node.run_python("red", CONNECT, path)).stderr
    assert "PermissionError" in (await run_outside(node.uids["red"], CONNECT, path)).stderr
    assert "blue-value" in (await run_outside(node.uids["blue"], CONNECT, path)).stdout


@pytest.mark.threat("T-19")
async def test_red_is_refused_by_blues_socket_even_with_open_modes(node: Node) -> None:
    """The kernel's word on the peer's uid stands where every mode bit was lost."""
    path = node.workload.socket_path("blue")
    path.parent.chmod(0o755)
    path.chmod(0o666)
    refused = await run_outside(node.uids["red"], CONNECT, str(path))
    assert "permission_denied" in refused.stdout
    assert "blue-value" not in refused.stdout
    assert "blue-value" in (await run_outside(node.uids["blue"], CONNECT, str(path))).stdout


@pytest.mark.threat("T-19")
async def test_red_cannot_reach_the_control_socket(node: Node) -> None:
    """Neither by path nor by uid; root is answered."""
    script = CONNECT.replace('"op":"get","name":"db"', '"op":"status"')
    path = str(node.control.path)
    assert "FileNotFoundError" in (await node.run_python("red", script, path)).stderr
    assert "PermissionError" in (await run_outside(node.uids["red"], script, path)).stderr
    assert '"ok": true' in (await run_plain([PYTHON, "-c", script, path])).stdout


async def blue_pid(supervisor: int) -> int:
    """Return the host's pid of the service: the child of pid 1, the child of the supervisor."""
    pid = supervisor
    for _ in range(2):
        children = Path(f"/proc/{pid}/task/{pid}/children")
        pid = int((await asyncio.to_thread(children.read_text)).split()[0])
    return pid


@pytest.mark.threat("T-19")
async def test_red_cannot_reach_blue_through_proc(node: Node) -> None:
    """Blue's process does not exist in red's /proc; red's uid is denied outside; blue's is not."""
    blue = await node.start_exec("blue", PYTHON, "-I", "-c", WAIT)
    assert blue.stdout is not None
    assert await blue.stdout.readline() == b"ready\n"
    path = f"/proc/{await blue_pid(blue.pid)}/root/run/secrets/db"
    try:
        assert "FileNotFoundError" in (await node.run_python("red", READ, path)).stderr
        listing = "import os; print([p for p in os.listdir('/proc') if p.isdigit()])"
        assert (await node.run_python("red", listing)).stdout == "['2']\n"
        assert "PermissionError" in (await run_outside(node.uids["red"], READ, path)).stderr
        assert (await run_outside(node.uids["blue"], READ, path)).stdout == "blue-value\n"
    finally:
        await finished(blue)


@pytest.mark.threat("T-19")
async def test_red_cannot_trace_nor_leave_its_namespaces(node: Node) -> None:
    """The filter denies each call; without it those that no host setting forbids succeed."""
    inside = json.loads((await node.run_python("red", SYSTEM_CALLS)).stdout)
    outside = json.loads((await run_outside(node.uids["red"], SYSTEM_CALLS)).stdout)
    assert set(inside.values()) == {errno.EPERM}
    assert (outside["ptrace"], outside["process_vm_readv"]) == (0, 0)
    assert outside["tiocsti"] == errno.ENOTTY
    assert set(inside) == set(outside)


@pytest.mark.threat("T-19")
async def test_red_cannot_change_its_mounts(node: Node) -> None:
    """No write to the secrets, no unmounting of a cover; root in the host may do both."""
    write = "open('/run/secrets/planted', 'w')"
    assert "OSError" in (await node.run_python("red", write)).stderr
    unmount = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.umount2(sys.argv[1].encode(), 2), ctypes.get_errno())"
    )
    path = str(node.mounts_root)
    assert (await node.run_python("red", unmount, path)).stdout == "-1 1\n"
    blue = str(node.mounts_root / "blue")
    assert (await run_plain([PYTHON, "-c", unmount, blue])).stdout == "0 0\n"


@pytest.mark.threat("T-19")
async def test_red_cannot_learn_of_blue_from_its_mount_table(node: Node) -> None:
    """Other services' mounts are taken out of the view, not only covered; the host lists them."""
    show = "print(open('/proc/self/mountinfo').read())"
    table = (await node.run_python("red", show)).stdout
    blue = f" {node.mounts_root / 'blue'} "
    assert " /run/secrets " in table
    assert blue not in table
    assert blue in (await run_outside(node.uids["red"], show)).stdout


@pytest.mark.threat("T-19")
async def test_red_inherits_no_way_around_the_covers(node: Node) -> None:
    """A directory open in the supervisor, and its working directory, are closed and re-resolved."""
    directory = os.open(node.mounts_root, os.O_RDONLY)
    os.set_inheritable(directory, True)
    script = LIST.replace("int(sys.argv[1])", "int(sys.argv[1]) if len(sys.argv) > 1 else '.'")
    command = [sys.executable, "-m", "agent.cli.main", "exec", "--service", "red"]
    command += ["--run-dir", str(node.run_directory), "--", PYTHON, "-I", "-c", script]
    pipe = asyncio.subprocess.PIPE
    try:
        for arguments, prefix in (([str(directory)], command), ([str(directory)], command[-4:])):
            process = await asyncio.create_subprocess_exec(
                *prefix, *arguments, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=[directory]
            )
            done = await finished(process)
            assert ("Bad file descriptor" in done.stderr) is (prefix is command)
            assert ("blue" in done.stdout) is (prefix is not command)
    finally:
        os.close(directory)
    inside = await run_plain(command, cwd=node.mounts_root)
    assert (inside.code, inside.stdout) == (0, "[]\n")
    assert "blue" in (await run_plain(command[-4:], cwd=node.mounts_root)).stdout


@pytest.mark.threat("T-19")
async def test_red_gains_nothing_from_a_setuid_program(node: Node) -> None:
    """No new privileges: a setuid-root program runs as red; outside it runs as root."""
    program = node.mounts_root.parent / "whoami"
    shutil.copyfile("/usr/bin/id", program)
    program.chmod(stat.S_ISUID | 0o755)
    uid = node.uids["red"]
    assert (await node.run_exec("red", str(program), "-u")).stdout == f"{uid}\n"
    identity = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    assert (await run_plain([*identity, str(program), "-u"])).stdout == "0\n"


@pytest.mark.threat("T-19")
async def test_a_value_is_in_no_environment_and_no_command_line(node: Node) -> None:
    """While red runs, its value is in no /proc/*/environ or cmdline; a planted one is found."""
    red = await node.start_exec("red", PYTHON, "-I", "-c", WAIT, "planted-value")
    assert red.stdout is not None
    assert await red.stdout.readline() == b"ready\n"
    try:
        everything = await asyncio.to_thread(_environments_and_command_lines)
        assert b"planted-value" in everything
        assert b"red-value" not in everything
    finally:
        await finished(red)


def _environments_and_command_lines() -> bytes:
    parts = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            for name in ("environ", "cmdline"):
                try:
                    parts.append((process / name).read_bytes())
                except OSError:  # it ended meanwhile
                    continue
    return b"\0".join(parts)
