"""A service of the lab on another node: where it is, and how its program is started there."""

from collections.abc import Sequence
from dataclasses import replace

from docs.lab.stage import Lab, Service


def on_node(service: Service, node: str) -> Service:
    """Return the service as it is on another node."""
    return replace(service, node=node)


def start_copy(lab: Lab, copy: Service, words: Sequence[str] = ()) -> str:
    """Start a service's program on a node, show how, and return the name of its process.

    `words`: another program than the service's own.
    """
    name = f"{copy.name}-{copy.node}"
    command = lab.exec_words(copy, *words) if words else lab.service_command(copy)
    lab.narrator.command(command, " &")
    process = lab.processes.start(name, command)
    lab.wait_until(f"{name} says something", lambda: bool(process.last_lines()), name)
    lab.narrator.output("\n".join(process.last_lines()))
    return name


def said_by(lab: Lab, process: str) -> list[str]:
    """Return all that a process has printed so far."""
    return lab.processes[process].log.read_text(errors="replace").splitlines()
