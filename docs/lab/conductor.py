"""Runs a scenario from a clean place to a clean place, and turns it into an exit code.

0: all was shown as told. 1: something differs. 2: wrong usage, or the place cannot be used.
3: something cannot be shown on this machine.
"""

import signal
import sys
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from docs.lab import leftovers, ports, stage
from docs.lab.capabilities import Means, probe
from docs.lab.layout import Layout
from docs.lab.narrator import Narrator
from docs.lab.processes import Processes
from docs.lab.scenarios.scenario import Scenario
from docs.lab.shell import LabError, Shell, environment_of
from docs.lab.stage import Lab

CONTEXT = "lab"
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Manner:
    """How a scenario is told."""

    waits: bool
    """For a reader, who advances with Enter."""
    stays: bool
    """Up at the end, until Ctrl-C."""
    keeps: bool
    """The managers' and nodes' data."""


def run(scenario: Scenario, layout: Layout, manner: Manner) -> int:
    """Run a scenario and return its exit code; raise LabError where the place cannot be used."""
    # Ended like this by a terminal that closes or a supervisor: clean up as after Ctrl-C, which is
    # named too because a shell starts what runs in the background with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    with leftovers.only_lab(layout):
        return _run_in(layout, scenario, manner)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _run_in(layout: Layout, scenario: Scenario, manner: Manner) -> int:
    narrator = Narrator(waits=manner.waits)
    for found in leftovers.clear_away(layout):
        narrator.say(f"left by an earlier lab: {found}")
    _check_place(layout)
    capabilities = probe()
    environment = environment_of(layout.programs, layout.config, CONTEXT)
    shell = Shell(narrator, environment, layout.repository)
    processes = Processes(layout, environment)
    story = (scenario.managers, scenario.init_options)
    lab = Lab(layout, capabilities, narrator, shell, processes, *story)
    try:
        leftovers.prepare(layout, mounts=capabilities.means is Means.KERNEL)
        stage.copy_programs(layout)
        stage.write_environment(layout, CONTEXT)
        _introduce(lab, scenario)
        _tell_steps(lab, scenario)
        narrator.summary()
        if manner.stays:
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
        leftovers.remove_all(layout, keep=manner.keeps)
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


def _introduce(lab: Lab, scenario: Scenario) -> None:
    layout = lab.layout
    managers = "three managers" if len(lab.managers) > 1 else "one manager"
    cast = scenario.cast or f"{managers}, two agents, three services and a third party"
    lab.narrator.say(
        f"""Strongroom's lab, {scenario.name}: {cast}, all on this machine. What you
        see is explained in {scenario.tutorial}. State is in
        {layout.state}, sockets and mounts are in {layout.runtime}. In a second terminal:
        `. {layout.state}/env`, then `strongroom status`; a command on an admin socket or of
        `strongroom-agent exec` wants the rights that this lab has."""
    )
    if lab.capabilities.means is not Means.KERNEL:
        lab.narrator.say(
            f"""Without the right to mount, the unlock key and the made-up values lie in
            {layout.runtime}: good for made-up values only."""
        )


def _tell_steps(lab: Lab, scenario: Scenario) -> None:
    for number, step in enumerate(scenario.steps, 1):
        lab.narrator.step(f"{number}  {step.title}", step.text)
        try:
            step.run(lab)
        except LabError as error:
            lab.narrator.failed(f"{error}; the steps after it are left out")
            lab.narrator.output("\n".join(stage.last_log_lines(lab.processes, step.involved)))
            return
        finally:
            leftovers.give_back(lab.layout)


def _stay_up(lab: Lab) -> None:
    try:
        lab.narrator.say(
            f"""The lab stays up until Ctrl-C. In a second terminal: `. {lab.layout.state}/env`,
            then `strongroom status`, `strongroom secret ls`, and whatever you like. Logs are in
            {lab.layout.logs}."""
        )
        while sys.stdin.readline():
            lab.narrator.say("Ctrl-C ends the lab.")
        # Nobody types: the lab was started from a script, which ends it by a signal.
        signal.pause()
    except KeyboardInterrupt:
        lab.narrator.say("Ending.")
