"""Kills the leader while rotations run, then the next one, and brings both back."""

import re
import time

from docs.lab.layout import MANAGERS, NODES
from docs.lab.processes import pause
from docs.lab.shell import Running
from docs.lab.stage import BLUE, RED, SERVICES, Lab
from docs.lab.steps.placing import make_value
from docs.lab.steps.step import Step
from docs.lab.steps.unlocking import missing, show_all_ready, start_locked, unlock_words

_ROTATIONS = 8
_KILL_AFTER = 2
_NEXT = f"{RED.secret}.2"


def _rotate_and_kill(lab: Lab) -> None:
    leader = str(lab.status()["leader"])
    pid = lab.processes[leader].popen.pid
    files = [f"{BLUE.secret}.{number}" for number in range(2, 2 + _ROTATIONS)]
    for file in files:
        make_value(lab, file)
    lab.narrator.say(f"The leader is {leader}, pid {pid}.")
    rotate = f"strongroom secret rotate {BLUE.secret} {lab.value_file(BLUE.secret)}"
    last = _ROTATIONS + 1
    script = f"for n in $(seq 2 {last}); do {rotate}.$n || exit; done"
    told: list[str] = []
    slowest_s, before = 0.0, time.monotonic()
    for line in lab.shell.follow("sh", "-c", script):
        slowest_s = max(slowest_s, time.monotonic() - before)
        before = time.monotonic()
        told.append(line)
        if len(told) == _KILL_AFTER:
            lab.narrator.command(["kill", "-9", str(pid)])
            lab.processes.kill(leader)
    lab.narrator.say(
        f"""The slowest of these commands took {slowest_s:.2f} s, its own start included: it waited
        for the new leader, and sent its transaction again under the same request id."""
    )
    _judge_rotations(lab, told, files[-1])


def _judge_rotations(lab: Lab, told: list[str], last: str) -> None:
    versions = [int(found[1]) for line in told if (found := re.match(r"version (\d+) on", line))]
    expected = list(range(2, 2 + _ROTATIONS))
    claim = "each rotation was acknowledged, as the version it is"
    lab.narrator.observe(claim, seen=versions, expected=expected)
    shown = lab.shell.ask("strongroom", "secret", "inspect", BLUE.secret)
    stored = sorted(int(one["number"]) for one in shown["versions"])
    claim = "versions stored: none lost, none applied twice"
    lab.narrator.observe(claim, seen=stored, expected=[1, *expected])
    if lab.capabilities.delivery:
        return
    in_place = lab.digest_in_place(BLUE) == lab.digest_of(lab.value_file(last))
    lab.narrator.observe("blue's file holds the last one", seen=in_place)
    ended = [one.name for one in SERVICES if not lab.processes[one.name].is_running]
    lab.narrator.observe("services that ended meanwhile", seen=ended, expected=[])


def _lose_majority(lab: Lab) -> None:
    second = str(lab.status()["leader"])
    lab.narrator.command(["kill", "-9", str(lab.processes[second].popen.pid)])
    lab.processes.kill(second)
    make_value(lab, _NEXT)
    new = lab.value_file(_NEXT)
    words = ["strongroom", "secret", "rotate", RED.secret, str(new)]
    with lab.shell.beside(*words) as rotation:
        _wait_in_vain(lab, rotation)
        done = rotation.finish()
    lab.narrator.observe("the rotation that waited is done", seen=done.code == 0)
    if not lab.capabilities.delivery:
        in_place = lab.digest_in_place(RED) == lab.digest_of(new)
        lab.narrator.observe("red's file holds the new value", seen=in_place)


def _wait_in_vain(lab: Lab, rotation: Running) -> None:
    lab.narrator.say("The command waits, and so does the lab, for three seconds.")
    pause(3)
    claim = "without a majority the rotation is not acknowledged"
    lab.narrator.observe(claim, seen=rotation.is_running)
    if not lab.capabilities.delivery:
        unchanged = lab.digest_in_place(RED) == lab.digest_of(lab.value_file(RED.secret))
        lab.narrator.observe("red reads its secret as before", seen=unchanged)
    first, _other = missing(lab)
    lab.narrator.say(f"{first} is started and unlocked. Two of three are a majority again.")
    start_locked(lab, [first])
    lab.shell.run(*unlock_words(lab, first), "--key-file", str(lab.layout.unlock_key))


def _bring_back(lab: Lab) -> None:
    (name,) = missing(lab)
    start_locked(lab, [name])
    lab.shell.run(*unlock_words(lab, name), "--key-file", str(lab.layout.unlock_key))
    show_all_ready(lab)


ROTATE_AND_KILL = Step(
    "Kill the leader while rotations run",
    """Eight rotations, one after another. In between the leader is killed with SIGKILL, as a power
    cut would: its manager and with it its etcd member. Nobody repeats a command by hand.""",
    _rotate_and_kill,
    (*MANAGERS, *NODES, "blue"),
)
LOSE_MAJORITY = Step(
    "Kill the next leader, too",
    """One of three is no majority. It cannot know whether the other two agreed on something else,
    so it acknowledges nothing. What is on the nodes stays there.""",
    _lose_majority,
    (*MANAGERS, *NODES, "red"),
)
BRING_BACK = Step(
    "Bring the other one back",
    """It comes back locked, with what it had on its disk, and catches up.""",
    _bring_back,
    (*MANAGERS, *NODES),
)
