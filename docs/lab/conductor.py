"""Runs the scenario from a clean place to a clean place, and turns it into an exit code.

0: all was shown as told. 1: something differs. 2: wrong usage, or the place cannot be used.
3: something cannot be shown on this machine.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from docs.lab import leftovers, ports, stage
from docs.lab.capabilities import Means, probe
from docs.lab.layout import DEFAULT_PORT, Layout, default_runtime
from docs.lab.narrator import Narrator
from docs.lab.processes import Processes
from docs.lab.scenario import (
    disk,
    failover,
    files,
    founding,
    isolation,
    placing,
    rotation,
    unlocking,
)
from docs.lab.shell import LabError, Shell, environment_of
from docs.lab.stage import Lab

STEPS = tuple(
    part.STEP for part in (founding, placing, files, isolation, disk, rotation, failover, unlocking)
)
CONTEXT = "lab"
DIFFERS, UNUSABLE, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the lab and return its exit code."""
    arguments = _parsed(argv)
    repository = Path(__file__).resolve().parents[2]
    layout = Layout(
        repository,
        (arguments.directory or repository / ".lab").resolve(),
        (arguments.runtime or default_runtime()).resolve(),
        arguments.port,
    )
    # Ended like this by a terminal that closes or a supervisor: clean up as after Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    guided = not arguments.once and sys.stdin.isatty() and sys.stdout.isatty()
    try:
        with leftovers.only_lab(layout):
            return _run_in(layout, guided=guided, keep=arguments.keep)
    except (LabError, OSError) as error:
        sys.stderr.write(f"lab: {error}\n")
        return UNUSABLE


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lab.py", description="The guided lab of Strongroom.")
    parser.add_argument("--once", action="store_true", help="run through without waiting")
    parser.add_argument("--keep", action="store_true", help="leave the managers' and nodes' data")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="state (default: .lab)")
    parser.add_argument(
        "--runtime", type=Path, metavar="DIR", help="sockets, mounts, made-up values"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="the first of 40 ports")
    return parser.parse_args(argv)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _run_in(layout: Layout, *, guided: bool, keep: bool) -> int:
    narrator = Narrator(waits=guided)
    for found in leftovers.clear_away(layout):
        narrator.say(f"left by an earlier lab: {found}")
    _check_place(layout)
    capabilities = probe()
    environment = environment_of(layout.programs, layout.config, CONTEXT)
    shell = Shell(narrator, environment, layout.repository)
    processes = Processes(layout, environment)
    lab = Lab(layout, capabilities, narrator, shell, processes)
    try:
        leftovers.prepare(layout, mounts=capabilities.means is Means.KERNEL)
        stage.copy_programs(layout)
        stage.write_environment(layout, CONTEXT)
        _introduce(lab)
        _tell_steps(lab)
        narrator.summary()
        if guided:
            _stay_up(lab)
    except KeyboardInterrupt:
        narrator.say("Interrupted.")
        return INTERRUPTED
    finally:
        # A second Ctrl-C must not leave processes and mounts behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        narrator.say("Ending every process, taking every mount away.")
        processes.stop_all()
        leftovers.remove_all(layout, keep=keep)
        leftovers.give_back(layout, everything=True)
    return narrator.exit_code


def _check_place(layout: Layout) -> None:
    if layout.etcd is None:
        raise LabError("etcd is not unpacked here; run `make tools`")
    taken = ports.busy(layout.ports)
    if taken:
        told = "; ".join(
            f"port {port} ({layout.ports[port]}) is taken by {owner}"
            for port, owner in taken.items()
        )
        raise LabError(f"{told}; end it, or choose other ports with --port")


def _introduce(lab: Lab) -> None:
    layout = lab.layout
    lab.narrator.say(
        f"""Strongroom's lab: three managers, two agents, three services and a third party, all on
        this machine. State is in {layout.state}, sockets and mounts are in {layout.runtime}. In a
        second terminal: `. {layout.state}/env`, then `strongroom status`; a command on an admin
        socket or of `strongroom-agent exec` wants the rights that this lab has."""
    )
    if lab.capabilities.means is not Means.KERNEL:
        lab.narrator.say(
            f"""Without the right to mount, the unlock key and the made-up values lie in
            {layout.runtime}: good for made-up values only."""
        )


def _tell_steps(lab: Lab) -> None:
    for step in STEPS:
        lab.narrator.step(step.title, step.text)
        try:
            step.run(lab)
        except LabError as error:
            lab.narrator.failed(f"{error}; the steps after it are left out")
            lab.narrator.output("\n".join(stage.last_log_lines(lab.processes, step.involved)))
            return
        finally:
            leftovers.give_back(lab.layout)


def _stay_up(lab: Lab) -> None:
    lab.narrator.say(
        f"""The lab stays up until Ctrl-C. In a second terminal: `. {lab.layout.state}/env`, then
        `strongroom status`, `strongroom secret ls`, and whatever you like. Logs are in
        {lab.layout.logs}."""
    )
    try:
        while sys.stdin.readline():
            lab.narrator.say("Ctrl-C ends the lab.")
    except KeyboardInterrupt:
        lab.narrator.say("Ending.")
