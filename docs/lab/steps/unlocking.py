"""A manager that starts again is locked until its operator unlocks it."""

from collections.abc import Sequence
from pathlib import Path

from docs.lab.layout import MANAGERS
from docs.lab.shell import LabError
from docs.lab.stage import Lab
from docs.lab.steps.step import Step


def _run(lab: Lab) -> None:
    (name,) = missing(lab)
    start_locked(lab, [name])
    ready = lab.managers_in_state("ready")
    claim = "managers that are ready without it"
    lab.narrator.observe(claim, seen=len(ready), expected=len(lab.managers) - 1)
    lab.shell.run(*unlock_words(lab, name), "--key-file", str(lab.layout.unlock_key))
    show_all_ready(lab)


def missing(lab: Lab) -> list[str]:
    """Return the managers that do not run; raise LabError if all do."""
    found = [name for name in lab.managers if name not in lab.processes]
    if not found:
        raise LabError("a manager should be down, and all run")
    return found


def start_locked(lab: Lab, names: Sequence[str]) -> None:
    """Start managers again, and show that they are locked."""
    lab.start_managers(*names)
    for name in names:
        done = lab.shell.run("strongroom", "status", "--admin-socket", str(_socket(lab, name)))
        locked = "the manager is locked" in done.stdout
        lab.narrator.observe(f"{name}, which came back, is locked", seen=locked)


def _socket(lab: Lab, name: str) -> Path:
    return lab.layout.admin_socket(name)


def unlock_words(lab: Lab, name: str) -> list[str]:
    """Return the command that unlocks a manager; the key comes from where the caller says."""
    return ["strongroom", "unlock", "--admin-socket", str(_socket(lab, name))]


def show_all_ready(lab: Lab) -> None:
    """Wait until every manager is ready, and show it."""
    everyone = list(lab.managers)

    def all_ready() -> bool:
        return sorted(lab.managers_in_state("ready")) == everyone

    lab.wait_until("all managers are ready", all_ready, *everyone)
    lab.shell.run("strongroom", "status")
    ready = sorted(lab.managers_in_state("ready"))
    lab.narrator.observe("managers that are ready", seen=ready, expected=everyone)


STEP = Step(
    "A restarted manager is locked",
    """Its seal file holds the root key, wrapped by the unlock key, which does not lie beside it.
    Until somebody brings that key the manager serves nothing, to whoever took its disk neither.""",
    _run,
    MANAGERS,
)
