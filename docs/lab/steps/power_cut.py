"""The whole cluster goes down and comes back locked; a thief of its disk tries his luck."""

import shutil
from pathlib import Path

from docs.lab import ports
from docs.lab.layout import HOST, MANAGERS, NODES
from docs.lab.stage import BLUE, RED, SERVICES, TWITTER, Lab
from docs.lab.steps.disk import search_disks
from docs.lab.steps.placing import make_value
from docs.lab.steps.step import Step
from docs.lab.steps.unlocking import missing, show_all_ready, start_locked, unlock_words

_NO_MANAGER_CAN_ANSWER = 5
_THIEF = "thief"
_THIEFS_PORT = 6
"""The first of three ports between the third party's and the managers'."""


def _cut_power(lab: Lab) -> None:
    pids = [str(lab.processes[name].popen.pid) for name in lab.managers]
    lab.narrator.command(["kill", "-9", *pids])
    for name in lab.managers:
        lab.processes.kill(name)
    done = lab.shell.attempt("strongroom", "secret", "ls")
    claim = "no manager answers: the command ends with"
    lab.narrator.observe(claim, seen=done.code, expected=_NO_MANAGER_CAN_ANSWER)
    if lab.capabilities.delivery:
        return
    reads = [lab.digest_in_place(one) == lab.digest_of(_value(lab, one.secret)) for one in SERVICES]
    lab.narrator.observe("services that read their secrets as before", seen=sum(reads), expected=3)


def _value(lab: Lab, name: str) -> Path:
    return lab.value_file(name)


def _start_locked(lab: Lab) -> None:
    start_locked(lab, missing(lab))
    done = lab.shell.attempt("strongroom", "secret", "ls")
    claim = "still no manager answers: the command ends with"
    lab.narrator.observe(claim, seen=done.code, expected=_NO_MANAGER_CAN_ANSWER)
    open_ports = sorted(set(ports.busy(lab.layout.ports)) - {lab.layout.third_party_port})
    lab.narrator.observe("ports on which a locked manager listens", seen=open_ports, expected=[])


def _steal_disk(lab: Lab) -> None:
    loot = lab.layout.state / "scratch" / _THIEF
    lab.narrator.command(["cp", "-a", str(lab.layout.manager_data(MANAGERS[0])), str(loot)])
    shutil.copytree(lab.layout.manager_data(MANAGERS[0]), loot)
    lab.shell.run("ls", "-l", str(loot))
    search_disks(
        lab, [lab.value_file(one.secret) for one in (RED, BLUE, TWITTER)], loot, control=False
    )
    lab.narrator.say("He starts a manager of his own on the copy.")
    command = _thiefs_command(lab, loot)
    lab.narrator.command(command, " &")
    lab.processes.start(_THIEF, command)
    lab.wait_for_admin(_THIEF)
    socket = ["--admin-socket", str(lab.layout.admin_socket(_THIEF))]
    state = lab.shell.ask("strongroom", "status", *socket)["state"]
    lab.narrator.observe("the thief's manager is", seen=state, expected="locked")
    key = str(lab.value_file("another-clusters-key"))
    lab.shell.run("python", "docs/lab/probes/other_unlock_key.py", key)
    done = lab.shell.attempt("strongroom", "unlock", *socket, "--key-file", key)
    lab.narrator.observe("another unlock key is refused", seen=done.code != 0)
    state = lab.shell.ask("strongroom", "status", *socket)["state"]
    lab.narrator.observe("and the thief's manager stays", seen=state, expected="locked")
    lab.processes.kill(_THIEF)
    shutil.rmtree(loot)


def _thiefs_command(lab: Lab, loot: Path) -> list[str]:
    first = lab.layout.first_port + _THIEFS_PORT
    return [
        *("strongroom", "manager", "run", "--name", MANAGERS[0], "--advertise", HOST),
        *("--data-dir", str(loot), "--run-dir", str(lab.layout.run_dir(_THIEF))),
        *("--api-listen", f"{HOST}:{first}", "--join-listen", f"{HOST}:{first + 1}"),
        *("--peer-listen", f"{HOST}:{first + 2}", "--etcd", str(lab.layout.etcd)),
    ]


def _unlock(lab: Lab) -> None:
    key = lab.layout.unlock_key
    first, *others = lab.managers
    lab.shell.run(*unlock_words(lab, first), "--detach", stdin=key)
    socket = ["--admin-socket", str(lab.layout.admin_socket(first))]
    lab.shell.run("strongroom", "status", *socket)
    state = lab.shell.ask("strongroom", "status", *socket)["state"]
    lab.narrator.observe(
        "one unlocked manager of three is no majority: it is not ready", seen=state != "ready"
    )
    for name in others:
        lab.shell.run(*unlock_words(lab, name), stdin=key)
    show_all_ready(lab)
    if lab.capabilities.delivery:
        return
    make_value(lab, f"{RED.secret}.2")
    new = lab.value_file(f"{RED.secret}.2")
    lab.shell.run("strongroom", "secret", "rotate", RED.secret, str(new))
    in_place = lab.digest_in_place(RED) == lab.digest_of(new)
    lab.narrator.observe("the nodes came back by themselves, and get a rotation", seen=in_place)


CUT_POWER = Step(
    "Cut the power",
    """All three managers die at once. The services' files do not depend on them: they lie in the
    nodes' memory.""",
    _cut_power,
    (*MANAGERS, *NODES),
)
START_LOCKED = Step(
    "Start again: locked",
    """What lies on the disk does not open itself. A locked manager runs its admin socket, for root
    on its machine, and nothing else.""",
    _start_locked,
    MANAGERS,
)
STEAL_DISK = Step(
    "What a thief of the disk gets",
    """He has all of a manager's data directory: the store, the log, the seal file. And all the time
    in the world.""",
    _steal_disk,
    (*MANAGERS, _THIEF),
)
UNLOCK = Step(
    "Unlock, by standard input",
    """The key comes from where its owner keeps it, over standard input: never as a word of a
    command, which everybody on a machine can read. Each manager is unlocked by itself.""",
    _unlock,
    (*MANAGERS, *NODES, "red"),
)
