"""Twitter's changes go out to a canary first; a credential that nobody issued goes no further."""

import json

from docs.lab.layout import NODES, PYTHON
from docs.lab.shell import Done, LabError
from docs.lab.stage import TWITTER, Lab
from docs.lab.steps.copies import on_node, said_by, start_copy
from docs.lab.steps.placing import make_value
from docs.lab.steps.step import Step

_INVOLVED = ("m1", *NODES, "twitter", "twitter-node1", "third-party")
_COPIES = (on_node(TWITTER, NODES[0]), TWITTER)
_PROCESSES = {NODES[0]: f"{TWITTER.name}-{NODES[0]}", NODES[1]: TWITTER.name}
_ACCEPTED = "twitter: the API answers 200"
_REFUSED = "twitter: the API answers 401"
_NOT_SHOWN = "a service's own check decides about a rotation"


def _ask_whether_it_works(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    update = ("strongroom", "service", "update", TWITTER.name)
    lab.shell.run(*update, "--constraint-rm", "node.labels.side==right", "--replicas", "2")
    start_copy(lab, _COPIES[0])
    call = [PYTHON, "-I", lab.app("twitter.py"), f"/run/secrets/{TWITTER.target}"]
    check = ("--health-cmd", json.dumps([*call, lab.third_party_url, "--once"]))
    how = ("--health-interval", "500ms", "--health-retries", "2", "--update-canary", "1")
    lab.shell.run(
        *update, *check, *how, "--update-monitor", "500ms", "--update-failure-action", "rollback"
    )
    lab.wait_until("both are healthy", lambda: _health(lab) == ["healthy"] * 2, *NODES)
    lab.shell.run("strongroom", "service", "ps", TWITTER.name)
    lab.narrator.look_at("HEALTH: what the check says of the version that is mounted now.")
    lab.narrator.observe("twitter is healthy on", seen=_nodes(lab), expected=list(NODES))


def _rotate_well(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    socket, new = str(lab.layout.third_party_socket), lab.value_file("twitter-credential.2")
    lab.shell.run(*lab.third_party("issue", socket, str(new)))
    done = lab.shell.run("strongroom", "secret", "rotate", TWITTER.secret, str(new))
    canary, *others = _released(done)
    lab.narrator.observe("one node takes it first, alone", seen=len(others), expected=1)
    proven = done.stdout.index(f"{canary} (service twitter): done")
    later = done.stdout.index(f"{others[0]} (service twitter): released")
    lab.narrator.observe("the other one, when that is healthy", seen=proven < later)
    wanted = lab.digest_of(new)
    everywhere = [lab.digest_in_place(copy) == wanted for copy in _COPIES]
    lab.narrator.observe("both files hold the new credential", seen=all(everywhere))
    lab.narrator.observe("calls that were refused", seen=lab.usage()["refused"], expected=0)
    lab.narrator.say("The old one is revoked where it was issued.")
    lab.shell.run(*lab.third_party("revoke", socket, "1"))


def _rotate_badly(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    make_value(lab, "twitter-credential.mistyped")
    bad, before = lab.value_file("twitter-credential.mistyped"), _answers(lab)
    accepted = _accepted(lab)
    done = lab.shell.attempt("strongroom", "secret", "rotate", TWITTER.secret, str(bad))
    lab.narrator.observe("the command says that it was taken back (6)", seen=done.code, expected=6)
    released = _released(done)
    lab.narrator.observe("nodes that were given it", seen=len(released), expected=1)
    good = lab.digest_of(lab.value_file("twitter-credential.2"))
    in_place = [lab.digest_in_place(copy) == good for copy in _COPIES]
    lab.narrator.observe("both files hold the good credential", seen=in_place == [True, True])
    lab.wait_until("the canary works again", lambda: _works(lab, released[0]), *_involved_apps())
    lab.wait_until("calls go on", lambda: _accepted(lab) > accepted + 10, *_involved_apps())
    told = {node: lines[len(before[node]) :] for node, lines in _answers(lab).items()}
    canary = told.pop(released[0])
    came_back = canary == [_REFUSED, _ACCEPTED]
    lab.narrator.observe("twitter on the canary was refused for a moment", seen=came_back)
    (noticed,) = told.values()
    lab.narrator.observe("what twitter on the other node noticed", seen=noticed, expected=[])


def _look_back(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    lab.shell.run("strongroom", "rollout", "ls")
    lab.shell.run("strongroom", "secret", "versions", TWITTER.secret)
    lab.shell.run("strongroom", "secret", "where", TWITTER.secret, "--version", "3")
    where = lab.shell.ask("strongroom", "secret", "where", TWITTER.secret, "--version", "3")
    nodes = [receipt["node"] for receipt in where["receipts"]]
    lab.narrator.observe("nodes that may have had version 3", seen=len(nodes), expected=1)
    good = str(lab.value_file("twitter-credential.4"))
    lab.shell.run(*lab.third_party("issue", str(lab.layout.third_party_socket), good))
    done = lab.shell.attempt("strongroom", "secret", "rotate", TWITTER.secret, good)
    lab.narrator.observe("the next good one goes out as ever", seen=done.code, expected=0)
    lab.shell.run("strongroom", "service", "ps", TWITTER.name)


def _tasks(lab: Lab) -> list[dict[str, object]]:
    found: list[dict[str, object]] = lab.shell.ask("strongroom", "service", "ps", TWITTER.name)
    return found


def _health(lab: Lab) -> list[object]:
    return [task["health"] for task in _tasks(lab)]


def _nodes(lab: Lab) -> list[str]:
    return sorted(str(task["node"]) for task in _tasks(lab) if task["health"] == "healthy")


def _released(done: Done) -> list[str]:
    """Return the nodes that a command told of as released, in this order."""
    end = " (service twitter): released"
    found = [line.removesuffix(end) for line in done.stdout.splitlines() if line.endswith(end)]
    if not found:
        raise LabError("the rotation was given to no node")
    return found


def _answers(lab: Lab) -> dict[str, list[str]]:
    """Return what the API answered each copy of twitter, one line whenever that changed."""
    return {node: said_by(lab, process) for node, process in _PROCESSES.items()}


def _works(lab: Lab, node: str) -> bool:
    return _answers(lab)[node][-1] == _ACCEPTED


def _accepted(lab: Lab) -> int:
    return sum(lab.usage()["accepted"])


def _involved_apps() -> tuple[str, ...]:
    return tuple(_PROCESSES.values())


ASK_WHETHER_IT_WORKS = Step(
    "Let twitter say whether it works",
    """Twitter now runs on both nodes. A file in place is not a credential that works: so each node
    runs a check as twitter, which uses what is in the file. A change goes to one node first; if
    the check fails, it is taken back everywhere.""",
    _ask_whether_it_works,
    _INVOLVED,
)
ROTATE_WELL = Step(
    "A good rotation",
    """The third party issues another credential. One command brings it to the canary, asks there
    for a while, and then goes on.""",
    _rotate_well,
    _INVOLVED,
)
ROTATE_BADLY = Step(
    "A bad rotation",
    """Somebody pastes the wrong line: a credential that the third party never issued. Strongroom
    cannot know that. The canary's check can.""",
    _rotate_badly,
    _INVOLVED,
)
LOOK_BACK = Step(
    "What is on record",
    """The failed version keeps its number and is issued to nobody any more. Who may have had it is
    known, because the record of that is written before a value leaves a manager.""",
    _look_back,
    _INVOLVED,
)
