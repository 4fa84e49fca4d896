"""Red tries to get at blue's secret, each way with a control that shows the way exists."""

from dataclasses import dataclass

from docs.lab.layout import MANAGERS, NODES, PYTHON
from docs.lab.stage import BLUE, RED, Lab, Service
from docs.lab.steps.step import Step


@dataclass(frozen=True, slots=True)
class Control:
    """The same attack where what keeps it out is absent."""

    who: str
    prefix: tuple[str, ...]
    """The words before the attack."""
    words: tuple[str, ...] = ()
    """The attack, where its target has another name outside."""


ROOT = Control("root", ())


def _run(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown("red cannot read blue's on one node", lab.capabilities.isolation)
    else:
        try_neighbour(lab, RED, BLUE)
    if lab.capabilities.delivery:
        lab.narrator.not_shown("a stolen certificate of another node", lab.capabilities.delivery)
    else:
        _try_with_stolen_certificate(lab)


def try_neighbour(lab: Lab, attacker: Service, victim: Service) -> None:
    """Let a service try every way to another's secret on the same node."""
    mount = lab.mount_of(victim) / victim.target
    pid = lab.program_pid(victim)
    socket = _workload_socket(lab, victim)
    root = f"/proc/{pid}/root/run/secrets/{victim.target}"
    own = Control(victim.name, as_uid_of(victim))
    attempt(lab, attacker, "by file", ["file", str(mount)], own)
    attempt(lab, attacker, "through /proc", ["file", root], own)
    attempt(lab, attacker, "with a debugger (ptrace)", ["trace", str(pid)], ROOT)
    way = f"over {victim.name}'s socket"
    attempt(lab, attacker, way, ["socket", socket, victim.target], own)
    lab.narrator.look_at(
        f"""who the controls are. {victim.name.capitalize()}'s own uid, or root for the debugger:
        root on a node reads everything that is mounted there, and nothing here claims otherwise."""
    )


def as_uid_of(service: Service) -> tuple[str, ...]:
    """Return what runs a command under a service's uid, outside of any view."""
    return ("setpriv", f"--reuid={service.uid}", f"--regid={service.uid}", "--clear-groups")


def attempt(lab: Lab, attacker: Service, way: str, words: list[str], control: Control) -> None:
    """Let a service attack, and show with a control that the attack is worth something."""
    program = [PYTHON, "-I", lab.app("attacker.py")]
    done = lab.shell.attempt(*lab.exec_words(attacker, *program, *words))
    kept_out = done.code == 1 and done.stdout.startswith("kept out")
    lab.narrator.observe(f"{attacker.name} is kept out {way}", seen=kept_out)
    allowed = lab.shell.attempt(*control.prefix, *program, *(control.words or words))
    claim = f"control: {control.who} outside of {attacker.name}'s view gets in {way}"
    lab.narrator.observe(claim, seen=allowed.stdout.startswith("got in"))


def _workload_socket(lab: Lab, service: Service) -> str:
    directory = lab.layout.run_dir(service.node)
    found = [path for path in directory.rglob("*.sock") if service.name in path.parts]
    return str(found[0]) if found else str(directory / "workload" / service.name / "workload.sock")


def _try_with_stolen_certificate(lab: Lab) -> None:
    lab.narrator.say(
        """A thief takes node2's key and certificate, and asks a manager for red's secret. Node2
        runs twitter; red is on node1."""
    )
    probe = ["python", "docs/lab/probes/stolen_certificate.py"]
    ask = ["issue", RED.name, RED.secret]
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
