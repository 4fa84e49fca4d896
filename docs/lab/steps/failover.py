"""The leader is killed; secrets stay readable and a rotation succeeds."""

import time

from docs.lab.layout import MANAGERS, NODES
from docs.lab.processes import children_of, identity_of
from docs.lab.stage import BLUE, RED, Lab
from docs.lab.steps.file_watch import FileWatch
from docs.lab.steps.placing import make_value
from docs.lab.steps.step import Step


def _run(lab: Lab) -> None:
    leader = str(lab.status()["leader"])
    pid = lab.processes[leader].popen.pid
    new = f"{BLUE.secret}.2"
    make_value(lab, new)
    members = [(child, identity_of(child)) for child in children_of(pid)]
    lab.narrator.say(
        f"The leader is {leader}: its manager, and with it its etcd member, is killed."
    )
    lab.narrator.command(["kill", "-9", str(pid)])
    killed_at = time.monotonic()
    lab.processes.kill(leader)
    _show_reads(lab)
    _rotate(lab, new, killed_at)
    gone = all(_is_gone(child, identity) for child, identity in members)
    lab.narrator.observe("its etcd member died with it", seen=bool(members) and gone)

    def noticed() -> bool:
        return leader in lab.managers_in_state("down or locked")

    lab.wait_until("the others miss it", noticed)
    lab.shell.run("strongroom", "status")
    down = lab.managers_in_state("down or locked")
    lab.narrator.observe("managers that are down", seen=down, expected=[leader])
    lab.narrator.observe("another one leads", seen=lab.status()["leader"] != leader)


def _show_reads(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown("secrets stay readable", lab.capabilities.delivery)
        return
    lab.shell.run(*lab.exec_words(RED, "wc", "-c", lab.secret_path(RED)))
    stored = lab.digest_of(lab.value_file(RED.secret))
    readable = lab.digest_in_place(RED) == stored
    lab.narrator.observe("red reads its secret as before", seen=readable)


def _rotate(lab: Lab, new: str, killed_at: float) -> None:
    watch = FileWatch(lab, BLUE, lab.value_file(new).read_bytes())
    with watch:
        lab.shell.run("strongroom", "secret", "rotate", BLUE.secret, str(lab.value_file(new)))
    took_s = time.monotonic() - killed_at
    lab.narrator.say(f"Time: {took_s:.2f} s from the kill until the command said that it is done.")
    if lab.capabilities.delivery:
        lab.narrator.observe("a rotation is stored", seen=True)
        return
    if watch.seen_at is not None:
        file_s = watch.seen_at - killed_at
        lab.narrator.say(f"Blue's file held the new value {file_s:.2f} s after the kill.")
    in_place = lab.digest_in_place(BLUE) == lab.digest_of(lab.value_file(new))
    lab.narrator.observe("a rotation reached blue without the leader", seen=in_place)
    if lab.capabilities.isolation:
        lab.narrator.not_shown("blue was sent a signal", lab.capabilities.isolation)
        return
    blue = lab.processes[BLUE.name]
    lab.wait_until("blue has the signal", lambda: "blue: it changed" in blue.last_lines(), "blue")
    lab.narrator.output("\n".join(blue.last_lines()))
    lab.narrator.observe("blue was sent its signal and read the new value", seen=True)


def _is_gone(pid: int, identity: str) -> bool:
    # An ended child whose parent is gone waits for process 1, which may take its time.
    return identity_of(pid) != identity or _state(pid) == "Z"


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  # /proc
            return stat.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


STEP = Step(
    "Kill the leader",
    """SIGKILL, as a power cut would. Files on the nodes do not depend on managers. The two that
    remain are a majority: they elect a leader and go on writing.""",
    _run,
    (*MANAGERS, *NODES, "blue"),
)
