"""Hardening of a manager: its memory stays out of dumps, of its own uid's sight, and of swap."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65_534
# As nobody by two ways: what is permitted is lost only in the second.
HARDENING = """
import ctypes, json, os, resource, sys
from cluster.hardening import harden
PR_GET_DUMPABLE = 3
if sys.argv[1] == "restricted":
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65_536, 65_536))
    os.setresuid(65_534, 65_534, 65_534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
def state():
    status = open("/proc/self/status").read()
    return [
        ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0),
        int(status.split("VmLck:")[1].split()[0]) > 0,
    ]
resource.setrlimit(resource.RLIMIT_CORE, (1, resource.getrlimit(resource.RLIMIT_CORE)[1] or 1))
before = state()
harden()
print(json.dumps([before, state(), resource.getrlimit(resource.RLIMIT_CORE)]))
"""
HOLDING = """
import ctypes, os, sys
from cluster.hardening import harden
os.setresgid(65_534, 65_534, 65_534)
os.setresuid(65_534, 65_534, 65_534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
if sys.argv[1] == "hardened":
    harden()
print("ready", flush=True)
sys.stdin.read()
"""
CRASHING = """
import ctypes, os, resource
from types import SimpleNamespace
from cluster import hardening
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
assert hard != 0
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
hardening.resource = SimpleNamespace(**{{**vars(resource), "setrlimit": lambda *_: None}})
hardening.harden()
{then}
os.abort()
"""
READING = """
import os, sys
os.setresgid(65_534, 65_534, 65_534)
os.setresuid(65_534, 65_534, 65_534)
print('CANARY' in open(f'/proc/{sys.argv[1]}/environ').read())
"""


@pytest.mark.needs_root
@pytest.mark.parametrize(("mode", "is_locked"), [("free", True), ("restricted", False)])
def test_hardening_takes_each_measure_that_is_permitted(mode: str, is_locked: bool) -> None:
    """Not dumpable, no core size, memory locked; what was not permitted is logged and no error."""
    done = subprocess.run(
        [sys.executable, "-c", HARDENING, mode], capture_output=True, text=True, check=True
    )
    *logged, result = done.stdout.splitlines()
    before, after, core = json.loads(result)
    assert before == [1, False]
    assert after == [0, is_locked]
    assert core == [0, 0]
    assert any("hardening.mlock_not_permitted" in line for line in logged) is not is_locked


@pytest.mark.needs_root
@pytest.mark.threat("T-29")
@pytest.mark.control("T-29", without="cluster/hardening.py::harden")
def test_process_of_the_same_uid_reads_nothing_of_a_manager() -> None:
    """What a thief with the manager's uid opens is /proc/PID; unhardened, he reads it."""
    with holding("hardened") as pid:
        assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
        refused = read_as_nobody(pid)
        assert refused.returncode != 0
        assert "PermissionError" in refused.stderr
    with holding("as it is") as pid:
        assert Path(f"/proc/{pid}/environ").stat().st_uid == NOBODY
        assert read_as_nobody(pid).stdout.strip() == "True", "the control reads it"


@pytest.mark.needs_root
@pytest.mark.threat("T-29")
def test_flag_alone_leaves_no_core_dump(tmp_path: Path) -> None:
    """With the limit of core size taken away from both: what is not dumpable leaves no file."""
    assert not crash(tmp_path / "hardened", "")
    if not Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"):
        assert crash(tmp_path / "control", "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)")


def crash(directory: Path, then: str) -> bool:
    """Abort a hardened process that runs `then` before; return whether the kernel dumped it."""
    directory.mkdir()
    script = CRASHING.format(then=then)
    child = subprocess.Popen([sys.executable, "-c", script], cwd=directory)
    ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.wait() == -signal.SIGABRT
    assert ended is not None
    return ended.si_code == os.CLD_DUMPED


@contextmanager
def holding(mode: str) -> Iterator[int]:
    """Run a process of nobody's that holds something."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDING, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={"CANARY": "1"},
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        # What could not be locked is logged before.
        while (line := child.stdout.readline()) != "ready\n":
            assert line, "it ended"
        yield child.pid


def read_as_nobody(pid: int) -> subprocess.CompletedProcess[str]:
    """Read a process's environment from another process of the same uid, without capabilities."""
    command = [sys.executable, "-c", READING, str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
