"""Blue was taken over: it tries red, the walls of its own view, and who stands behind them."""

from docs.lab.layout import MANAGERS, NODES, PYTHON
from docs.lab.stage import BLUE, RED, Lab
from docs.lab.steps.isolation import ROOT, Control, as_uid_of, attempt, try_neighbour
from docs.lab.steps.step import Step

_INVOLVED = (*NODES, "red", "blue")


def _try_red(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown("blue cannot get at red's", lab.capabilities.isolation)
    else:
        try_neighbour(lab, BLUE, RED)


def _try_walls(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown("blue's view has walls", lab.capabilities.isolation)
        return
    # Outside there is no /run/secrets: the control takes the mount that blue's is a copy of, in a
    # mount namespace of its own, so that nothing outlives it.
    mount = ("remount", str(lab.mount_of(BLUE)))
    root_apart = Control("root", ("unshare", "--mount"), mount)
    attempt(lab, BLUE, "by a remount", ["remount", "/run/secrets"], root_apart)
    attempt(lab, BLUE, "by a namespace of its own", ["namespace"], ROOT)
    red = Control("red", as_uid_of(RED))
    attempt(lab, BLUE, "with a signal to red", ["kill", str(lab.program_pid(RED))], red)
    socket = str(lab.layout.run_dir(BLUE.node) / "control.sock")
    attempt(lab, BLUE, "over the agent's control socket", ["connect", socket], ROOT)


def _ask_manager(lab: Lab) -> None:
    address = lab.layout.address(lab.managers[0], 3).split(":")
    attack = [PYTHON, "-I", lab.app("attacker.py"), "manager", *address]
    if lab.capabilities.delivery:
        lab.narrator.not_shown("blue asks a manager", lab.capabilities.delivery)
        return
    done = lab.shell.attempt(*lab.exec_words(BLUE, *attack))
    lab.narrator.observe("the manager does not talk to blue", seen="kept out" in done.stdout)
    control = lab.shell.attempt("strongroom", "secret", "ls", "-q")
    lab.narrator.observe("control: it does to an operator", seen=RED.secret in control.stdout)


def _show_own(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown("blue has its own secret", lab.capabilities.delivery)
        return
    attack = [PYTHON, "-I", lab.app("attacker.py"), "file", lab.secret_path(BLUE)]
    done = lab.shell.attempt(*lab.exec_words(BLUE, *attack))
    lab.narrator.observe("blue's own secret is lost", seen=done.stdout.startswith("got in"))
    lab.narrator.say(
        """No secrets manager helps against that: an application that may read a secret can give it
        away. What remains is to find out quickly and to rotate: a file is changed in one
        command."""
    )
    lab.shell.run("strongroom", "service", "ps", BLUE.name)


TRY_RED = Step(
    "Blue tries red",
    """An attacker runs code as blue: with blue's uid, inside blue's namespaces, on the node where
    red runs as well. Each attempt has a control that shows the way itself works.""",
    _try_red,
    _INVOLVED,
)
TRY_WALLS = Step(
    "Blue tries its walls",
    """A mount that can be made writable takes planted files; a namespace of one's own makes one
    root in it; the agent's control socket tells about services.""",
    _try_walls,
    _INVOLVED,
)
ASK_MANAGER = Step(
    "Blue asks a manager",
    """The network is open: blue reaches a manager's API like everybody on this machine. It has no
    certificate, and the connection ends before a request is read.""",
    _ask_manager,
    (*MANAGERS, *_INVOLVED),
)
SHOW_OWN = Step(
    "What blue does get",
    """Its own secret, of course: it was given to it.""",
    _show_own,
    _INVOLVED,
)
