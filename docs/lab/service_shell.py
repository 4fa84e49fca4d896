"""`shell SERVICE`: a shell as one of the lab's services, in its own view. Be the attacker.

Works against a lab that is up, from a second terminal or with commands on standard input. Starts
nothing of the lab and ends nothing of it.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from docs.lab import leftovers
from docs.lab.layout import Layout
from docs.lab.shell import LabError, environment_of
from docs.lab.stage import SERVICES, Service


def run(layout: Layout, name: str) -> int:
    """Run the shell to its end; return its exit code; raise LabError where none can be had."""
    service = _service_named(name)
    if not leftovers.is_up(layout):
        raise LabError("no lab is up; start one with `make lab` and open the shell beside it")
    if os.geteuid() != 0:
        raise LabError("a shell in a service's view needs root's rights, as the lab has: use sudo")
    run_dir = layout.run_dir(service.node)
    if not (run_dir / "control.sock").exists():
        raise LabError(f"the agent of {service.node} does not run now; it is a part of the story")
    if sys.stdin.isatty():
        sys.stderr.write(
            f"You are service {service.name}, uid {service.uid}. Its secrets are in /run/secrets. "
            f"Things to try are in $LAB/apps/attacker.py. `exit` ends it.\n"
        )
    environment = environment_of(layout.programs, layout.config, "lab")
    environment |= {"LAB": str(layout.runtime)}
    words = ["strongroom-agent", "exec", "--run-dir", str(run_dir), "--service", service.name]
    # Ctrl-C is for what runs in the shell. A handler, not SIG_IGN: that one would be inherited.
    signal.signal(signal.SIGINT, lambda _number, _frame: None)
    # Without job control: a shell in a pid namespace cannot give the terminal back to us.
    words += ["--env", "LAB", "--", "/bin/sh", "+m"]
    return subprocess.run(words, env=environment, cwd=Path("/"), check=False).returncode


def _service_named(name: str) -> Service:
    for service in SERVICES:
        if service.name == name:
            return service
    names = ", ".join(service.name for service in SERVICES)
    raise LabError(f"there is no service {name!r} in the lab; there are {names}")
