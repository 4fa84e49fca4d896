"""Hardening: the agent's memory stays out of dumps, debuggers and swap, as far as permitted."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, resource, sys
from agent.hardening import harden_process
if sys.argv[1] == "restricted":
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65_536, 65_536))
    os.setresuid(65_534, 65_534, 65_534)
checks = {check.name: check.strength for check in harden_process()}
status = open("/proc/self/status").read()
locked = int(status.split("VmLck:")[1].split()[0])
print(json.dumps([checks, resource.getrlimit(resource.RLIMIT_CORE), locked > 0]))
"""


@pytest.mark.parametrize(
    ("mode", "lock", "is_locked"), [("free", "secure", True), ("restricted", "weak", False)]
)
def test_hardening_reports_what_it_got(mode: str, lock: str, is_locked: bool) -> None:
    """With the right to lock memory it is locked; without it, that is called weak."""
    command = [sys.executable, "-c", SCRIPT, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    checks, core, locked = json.loads(done.stdout)
    assert checks == {"core dumps": "secure", "memory lock": lock}
    assert core[0] == 0
    assert core[1] in (0, 1)
    assert locked is is_locked


@pytest.mark.threat("T-29")
@pytest.mark.control("T-29", without="agent/hardening.py::harden_process")
def test_hardened_process_cannot_be_read_by_its_own_uid() -> None:
    """/proc/PID/environ belongs to root once the process is not dumpable; before, it does not."""
    script = (
        "import os, sys\n"
        "from agent import linux\n"
        "from agent.hardening import harden_process\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "linux.prctl(linux.PR_SET_DUMPABLE, 1)\n"
        "print(os.stat('/proc/self/environ').st_uid)\n"
        "harden_process()\n"
        "print(os.stat('/proc/self/environ').st_uid)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = done.stdout.split()
    assert before == "65534"
    assert after == "0"
