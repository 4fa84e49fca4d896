"""A manager that starts again is locked until its operator unlocks it."""

from docs.lab.layout import MANAGERS
from docs.lab.shell import LabError
from docs.lab.stage import Lab
from docs.lab.steps.step import Step


def _run(lab: Lab) -> None:
    name = _the_missing(lab)
    socket = ["--admin-socket", str(lab.layout.admin_socket(name))]
    lab.narrator.command(lab.manager_command(name), " &")
    lab.start_manager(name)
    lab.shell.run("strongroom", "status", *socket)
    state = lab.shell.ask("strongroom", "status", *socket)["state"]
    lab.narrator.observe("the manager that came back is", seen=state, expected="locked")
    ready = lab.managers_in_state("ready")
    lab.narrator.observe(
        "managers that are ready without it", seen=len(ready), expected=len(lab.managers) - 1
    )
    key = ["--key-file", str(lab.layout.unlock_key)]
    lab.shell.run("strongroom", "unlock", *socket, *key)
    everyone = list(lab.managers)

    def all_ready() -> bool:
        return sorted(lab.managers_in_state("ready")) == everyone

    lab.wait_until("all managers are ready", all_ready, name)
    lab.shell.run("strongroom", "status")
    ready = sorted(lab.managers_in_state("ready"))
    lab.narrator.observe("managers that are ready", seen=ready, expected=everyone)


def _the_missing(lab: Lab) -> str:
    missing = [name for name in lab.managers if name not in lab.processes]
    if len(missing) != 1:
        raise LabError(f"one manager should be down, not {len(missing)}")
    return missing[0]


STEP = Step(
    "A restarted manager is locked",
    """Its seal file holds the root key, wrapped by the unlock key, which does not lie beside it.
    Until somebody brings that key the manager serves nothing, to whoever took its disk neither.""",
    _run,
    MANAGERS,
)
