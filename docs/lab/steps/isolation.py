"""Red tries to get at blue's secret, each way with a control that shows the way exists."""

from docs.lab.layout import MANAGERS, NODES, PYTHON
from docs.lab.stage import BLUE, RED, Lab
from docs.lab.steps.step import Step

_AS_BLUE = ("setpriv", f"--reuid={BLUE.uid}", f"--regid={BLUE.uid}", "--clear-groups")


def _run(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown("red cannot read blue's on one node", lab.capabilities.isolation)
    else:
        _try_on_the_node(lab)
    if lab.capabilities.delivery:
        lab.narrator.not_shown("a stolen certificate of another node", lab.capabilities.delivery)
    else:
        _try_with_stolen_certificate(lab)


def _try_on_the_node(lab: Lab) -> None:
    mount = lab.mount_of(BLUE) / BLUE.target
    pid = lab.program_pid(BLUE)
    socket = _workload_socket(lab)
    root = f"/proc/{pid}/root/run/secrets/{BLUE.target}"
    _attempt(lab, "by file", ["file", str(mount)], _AS_BLUE)
    _attempt(lab, "through /proc", ["file", root], _AS_BLUE)
    _attempt(lab, "with a debugger (ptrace)", ["trace", str(pid)], ())
    _attempt(lab, "over blue's socket", ["socket", socket, BLUE.target], _AS_BLUE)
    lab.narrator.look_at(
        """who the controls are. Blue's own uid, or root for the debugger: root on a node reads
        everything that is mounted there, and nothing here claims otherwise."""
    )


def _attempt(lab: Lab, way: str, words: list[str], control: tuple[str, ...]) -> None:
    attack = [PYTHON, "-I", lab.app("attacker.py"), *words]
    done = lab.shell.attempt(*lab.exec_words(RED, *attack))
    kept_out = done.code == 1 and done.stdout.startswith("kept out")
    lab.narrator.observe(f"red is kept out {way}", seen=kept_out)
    allowed = lab.shell.attempt(*control, *attack)
    claim = f"control: {'blue' if control else 'root'} outside of red's view gets in {way}"
    lab.narrator.observe(claim, seen=allowed.stdout.startswith("got in"))


def _workload_socket(lab: Lab) -> str:
    directory = lab.layout.run_dir(BLUE.node)
    found = [path for path in directory.rglob("*.sock") if BLUE.name in path.parts]
    return str(found[0]) if found else str(directory / "workload" / BLUE.name / "workload.sock")


def _try_with_stolen_certificate(lab: Lab) -> None:
    lab.narrator.say(
        """A thief takes node2's key and certificate, and asks a manager for red's secret. Node2
        runs twitter; red is on node1."""
    )
    probe = ["python", "docs/lab/probes/stolen_certificate.py"]
    ask = [RED.name, RED.secret]
    thief = lab.shell.attempt(*probe, str(lab.layout.node_data("node2")), *ask)
    refused = thief.code == 1 and ": 403 " in thief.stdout
    lab.narrator.observe("node2's certificate does not yield red's secret (403)", seen=refused)
    owner = lab.shell.attempt(*probe, str(lab.layout.node_data("node1")), *ask)
    lab.narrator.observe("control: node1's certificate does", seen=owner.code == 0)


STEP = Step(
    "Red cannot read blue's secret",
    """Red and blue share a node. Red is taken over: it runs what an attacker would run, with red's
    uid, inside red's namespaces. Each attempt has a control that shows the way itself works.""",
    _run,
    (*MANAGERS, *NODES, "red", "blue"),
)
