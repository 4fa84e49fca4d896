"""Twitter's credential is made by the cluster and changed at the third party by a hook."""

from docs.lab.layout import NODES, PYTHON
from docs.lab.stage import TWITTER, Lab
from docs.lab.steps.step import Step

_HOOK = "third-party"
_INVOLVED = ("m1", *NODES, "twitter", "third-party")
_NOT_SHOWN = "the third party is told of a new credential"


def _schedule(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.delivery)
        return
    program, socket = lab.app("third_party_api.py"), lab.layout.third_party_socket
    _write_hook(lab, f"exec {PYTHON} -I {program} hook {socket}")
    lab.shell.run("cat", str(lab.layout.hooks / _HOOK))
    lab.narrator.look_at("what is not there: a value. It comes by standard input.")
    lab.shell.run("strongroom", "hook", "ls")
    schedule = ("--rotate-every", "30d", "--generate", "password", "--hook", _HOOK)
    lab.shell.run("strongroom", "secret", "update", TWITTER.secret, *schedule)


def _rotate(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.delivery)
        return
    pid, old = lab.program_pid(TWITTER), lab.value_file(TWITTER.secret)
    before = lab.digest_in_place(TWITTER)
    lab.shell.run("strongroom", "secret", "rotate", TWITTER.secret, "--generate")
    lab.narrator.observe(
        "twitter's file holds another credential", seen=lab.digest_in_place(TWITTER) != before
    )
    lab.wait_until("twitter uses the new one", lambda: lab.usage()["accepted"][-1] > 0, "twitter")
    lab.wait_until("the rotation is over", lambda: bool(rotation(lab)["done"]), "m1")
    _observe_never_refused(lab)
    call = ["python", lab.app("twitter.py"), str(old), lab.third_party_url, "--once"]
    refused = lab.shell.attempt(*call)
    lab.narrator.observe("the API refuses the old one (401)", seen="401" in refused.stdout)
    lab.narrator.observe("twitter is the same process", seen=lab.program_pid(TWITTER) == pid)


def _break(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.delivery)
        return
    _write_hook(lab, "exit 1")
    lab.shell.run("cat", str(lab.layout.hooks / _HOOK))
    before = lab.digest_in_place(TWITTER)
    words = ("strongroom", "secret", "rotate", TWITTER.secret, "--generate", "--timeout", "1s")
    failing = lab.shell.attempt(*words)
    lab.narrator.observe("the command says that it still waits (4)", seen=failing.code, expected=4)
    lab.shell.run("strongroom", "secret", "ls")
    lab.narrator.look_at("the warning below the table.")
    lab.narrator.observe("twitter's file is as it was", seen=lab.digest_in_place(TWITTER) == before)
    accepted = lab.usage()["accepted"][-1]
    lab.wait_until("twitter goes on", lambda: lab.usage()["accepted"][-1] > accepted, "twitter")


def _repair(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.delivery)
        return
    before, operation = lab.digest_in_place(TWITTER), rotation(lab)["operation"]
    program, socket = lab.app("third_party_api.py"), lab.layout.third_party_socket
    _write_hook(lab, f"exec {PYTHON} -I {program} hook {socket}")
    lab.wait_until("the rotation is over", lambda: bool(rotation(lab)["done"]), "m1")
    found = rotation(lab)
    lab.shell.run("strongroom", "secret", "rotation", TWITTER.secret)
    claim = "the same operation went on by itself, and is done"
    same = (found["operation"], found["step"]) == (operation, "done")
    lab.narrator.observe(claim, seen=same)
    lab.narrator.observe(
        "twitter's file holds another credential", seen=lab.digest_in_place(TWITTER) != before
    )
    refused = lab.usage()["refused"]
    lab.narrator.observe("one call was refused so far: ours", seen=refused, expected=1)


def _observe_never_refused(lab: Lab) -> None:
    lab.narrator.observe("twitter was never refused", seen=lab.usage()["refused"], expected=0)


def rotation(lab: Lab) -> dict[str, object]:
    """Return how the rotation of twitter's credential stands."""
    found: dict[str, object] = lab.shell.ask("strongroom", "secret", "rotation", TWITTER.secret)[
        "rotation"
    ]
    return found


def _write_hook(lab: Lab, line: str) -> None:
    """Put a hook in its place at once: a manager may be about to call it."""
    lab.layout.hooks.mkdir(mode=0o700, exist_ok=True)
    new = lab.layout.private / "hook.new"
    new.write_text(f"#!/bin/sh\n{line}\n")
    new.chmod(0o700)
    new.rename(lab.layout.hooks / _HOOK)


SCHEDULE = Step(
    "Say how the credential is changed",
    """The third party has a console; a hook speaks to it. It lies in a directory of the manager's
    that only root can write to. The secret is told to rotate every thirty days.""",
    _schedule,
    _INVOLVED,
)
ROTATE = Step(
    "Rotate it now",
    """The manager makes a password that nobody sees. The hook is called three times: prepare, so
    that the third party accepts it; confirm, when the nodes have it; retire, when nobody uses the
    old one. Twitter calls the API all the time.""",
    _rotate,
    _INVOLVED,
)
BREAK = Step(
    "The hook fails",
    """Now the hook says no. The old credential stays, in the file and at the third party.""",
    _break,
    _INVOLVED,
)
REPAIR = Step(
    "The hook is repaired",
    """Nobody has to start anything again: the rotation is a record, and makes its next attempt.""",
    _repair,
    _INVOLVED,
)
