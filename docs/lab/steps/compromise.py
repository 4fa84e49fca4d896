"""Somebody is root on node2: what he may have, how to take it from him, and what it opens then."""

import shutil

from docs.lab.layout import MANAGERS, NODES
from docs.lab.stage import BLUE, RED, TWITTER, Lab
from docs.lab.steps import by_itself
from docs.lab.steps.copies import on_node, start_copy
from docs.lab.steps.placing import make_value
from docs.lab.steps.step import Step

_INVOLVED = (*MANAGERS, *NODES, "twitter", "twitter-node1", "third-party")
_NODE = NODES[1]
_HELD = (RED.secret, TWITTER.secret)
_PROBE = ("python", "docs/lab/probes/stolen_certificate.py")
_NOT_SHOWN = "a node to break into"


def _spread(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    update = ("strongroom", "service", "update")
    lab.shell.run(*update, RED.name, "--constraint-rm", "node.labels.side==left", "--global")
    lab.shell.run(*update, TWITTER.name, "--constraint-rm", "node.labels.side==right")
    by_itself.SCHEDULE.run(lab)


def _break_in(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    source, loot = lab.layout.node_data(_NODE), _loot(lab)
    lab.narrator.command(["cp", "-a", str(source), loot])
    shutil.copytree(source, loot)
    mount = lab.mount_of(TWITTER)
    lab.shell.run(
        "ls", "-l", f"{mount}/..data/", str(lab.mount_of(on_node(RED, _NODE))) + "/..data/"
    )
    lab.narrator.say("He keeps a copy of twitter's credential, and tries it from elsewhere.")
    copied = lab.layout.private / "copied-credential"
    copied.touch(0o600)
    copied.write_bytes((mount / TWITTER.target).read_bytes())
    taken = lab.shell.attempt(*_call(lab))
    lab.narrator.observe("what he read is accepted at the third party", seen=taken.code == 0)


def _ask(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    lab.shell.run("strongroom", "node", "exposure", _NODE)
    exposure = lab.shell.ask("strongroom", "node", "exposure", _NODE)
    had = sorted({receipt["secret"] for receipt in exposure["receipts"]})
    lab.narrator.observe(f"secrets that {_NODE} may have had", seen=had, expected=sorted(_HELD))
    lab.shell.run("strongroom", "secret", "where", RED.secret)
    lab.narrator.observe(
        f"{RED.secret} is or was on", seen=_where(lab, RED.secret), expected=[*NODES]
    )
    lab.narrator.observe(
        f"{BLUE.secret} is or was on", seen=_where(lab, BLUE.secret), expected=[BLUE.node]
    )


def _evict(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    mount = lab.mount_of(TWITTER) / TWITTER.target
    before = lab.digest_of(lab.value_file(TWITTER.secret))
    lab.shell.run("strongroom", "node", "evict", _NODE, "--rotate")
    lab.narrator.look_at("OUTCOME: what rotates by itself has begun to, and the rest is yours.")
    lab.wait_until(f"{_NODE} wiped what it held", lambda: not mount.exists())
    lab.narrator.observe(f"the agent of {_NODE} wiped its files", seen=not mount.exists())
    lab.narrator.say("Twitter's task has moved to node1; its program is started there.")
    moved = on_node(TWITTER, NODES[0])
    lab.wait_until(
        "twitter's files are on node1", lambda: bool(lab.digest_in_place(moved)), NODES[0]
    )
    start_copy(lab, moved)
    lab.wait_until("the rotation is over", lambda: bool(by_itself.rotation(lab)["settled"]), "m1")
    changed = lab.digest_in_place(moved) != before
    lab.narrator.observe("twitter on node1 has another credential", seen=changed)
    lab.shell.attempt("strongroom", "secret", "ls")
    lab.narrator.look_at("the warning below the table.")


def _rotate_the_rest(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    make_value(lab, f"{RED.secret}.2")
    new = lab.value_file(f"{RED.secret}.2")
    lab.shell.run("strongroom", "secret", "rotate", RED.secret, str(new))
    listed = lab.shell.run("strongroom", "secret", "ls")
    lab.narrator.observe("nothing is left to rotate", seen="must be rotated" not in listed.said)
    lab.shell.run("strongroom", "node", "exposure", _NODE)
    exposure = lab.shell.ask("strongroom", "node", "exposure", _NODE)
    claim = "of the versions that it had, in use"
    lab.narrator.observe(claim, seen=exposure["live"], expected=0)


def _try(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    refused = lab.shell.attempt(*_call(lab))
    lab.narrator.observe("the copied credential is refused (401)", seen="401" in refused.stdout)
    issue = ("issue", RED.name, RED.secret)
    thief = lab.shell.attempt(*_PROBE, _loot(lab), *issue)
    lab.narrator.observe("the copied identity is issued nothing", seen=thief.code != 0)
    own = lab.shell.attempt(*_PROBE, str(lab.layout.node_data(NODES[0])), *issue)
    lab.narrator.observe("control: node1's own is", seen=own.code == 0)
    new = _where(lab, RED.secret, "2") + _where(lab, TWITTER.secret, "2")
    lab.narrator.observe("the new versions went to", seen=sorted(set(new)), expected=[NODES[0]])
    accepted = sum(lab.usage()["accepted"])
    lab.wait_until("calls go on", lambda: sum(lab.usage()["accepted"]) > accepted, "twitter-node1")
    lab.narrator.observe("twitter works, on node1", seen=True)


def _loot(lab: Lab) -> str:
    return str(lab.layout.private / f"copy-of-{_NODE}")


def _call(lab: Lab) -> list[str]:
    """Return what tries the copied credential at the third party."""
    copied = str(lab.layout.private / "copied-credential")
    return ["python", lab.app("twitter.py"), copied, lab.third_party_url, "--once"]


def _where(lab: Lab, secret: str, version: str = "1") -> list[str]:
    words = ("strongroom", "secret", "where", secret, "--version", version)
    return sorted({str(receipt["node"]) for receipt in lab.shell.ask(*words)["receipts"]})


SPREAD = Step(
    "A cluster with something to lose",
    """Red now runs on both nodes. Twitter may run on any; its credential is made by the cluster,
    and a hook changes it at the third party. Red's password is changed by people.""",
    _spread,
    _INVOLVED,
)
BREAK_IN = Step(
    "Somebody is root on node2",
    """No secrets manager helps a node against its own root: what is mounted there, he reads. He
    copies the files, and the node's key and certificate.""",
    _break_in,
    _INVOLVED,
)
ASK = Step(
    "What does he have?",
    """Each delivery was put on record before the value left a manager. So the answer is a list,
    and not a search through logs.""",
    _ask,
    _INVOLVED,
)
EVICT = Step(
    "Take the node out",
    """One command: the node is issued nothing any more and told to wipe; what it had is marked;
    what the cluster can change by itself, it changes.""",
    _evict,
    _INVOLVED,
)
ROTATE_THE_REST = Step(
    "What is left to do",
    """Red's password has no hook, so a person changes it. Until then the cluster says so.""",
    _rotate_the_rest,
    _INVOLVED,
)
TRY = Step(
    "What he has is worth nothing",
    """He still has all that he copied. He tries it.""",
    _try,
    _INVOLVED,
)
