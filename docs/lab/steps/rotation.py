"""Twitter's credential is rotated, and nothing on any node is touched for it."""

from docs.lab.layout import MANAGERS, NODES
from docs.lab.stage import SERVICES, TWITTER, Lab
from docs.lab.steps.step import Step

_UNTOUCHED = (*NODES, *(service.name for service in SERVICES))


def _run(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown("a rotation reaches a running service", lab.capabilities.delivery)
        return
    before = _processes(lab)
    socket = str(lab.layout.third_party_socket)
    old, new = lab.value_file(TWITTER.secret), lab.value_file("twitter-credential.2")
    lab.narrator.say("The third party issues a second credential; both are good for a while.")
    lab.shell.run(*lab.third_party("issue", socket, str(new)))
    lab.shell.run("strongroom", "secret", "rotate", TWITTER.secret, str(new))
    lab.narrator.look_at("the time: the file was swapped in place, and the agent acknowledged it.")
    in_place = lab.digest_in_place(TWITTER) == lab.digest_of(new)
    lab.narrator.observe("twitter's file holds the new credential", seen=in_place)
    lab.wait_until("twitter uses the new one", lambda: lab.usage()["accepted"][1] > 0, "twitter")
    lab.narrator.say("The old one is revoked where it was issued.")
    lab.shell.run(*lab.third_party("revoke", socket, "1"))
    _compare(lab, old, new)
    _show_undisturbed(lab, before)


def _compare(lab: Lab, old: object, new: object) -> None:
    app = ["python", lab.app("twitter.py")]
    taken = lab.shell.attempt(*app, str(new), lab.third_party_url, "--once")
    lab.narrator.observe("the API takes the new credential", seen=taken.code == 0)
    refused_before = lab.usage()["refused"]
    refused = lab.shell.attempt(*app, str(old), lab.third_party_url, "--once")
    lab.narrator.observe("the API refuses the old one (401)", seen="401" in refused.stdout)
    lab.narrator.observe("twitter's own calls were never refused", seen=refused_before == 0)
    accepted = lab.usage()["accepted"][1]
    lab.wait_until("twitter goes on", lambda: lab.usage()["accepted"][1] > accepted, "twitter")
    lab.shell.run(*lab.third_party("usage", str(lab.layout.third_party_socket)))


def _show_undisturbed(lab: Lab, before: dict[str, str]) -> None:
    lab.shell.run("strongroom", "service", "ps", TWITTER.name)
    lab.narrator.observe(
        "the same processes run on the nodes: same pids, same start times",
        seen=_processes(lab) == before and set(before) == set(_UNTOUCHED),
    )


def _processes(lab: Lab) -> dict[str, str]:
    return {
        name: identity
        for name, identity in lab.processes.identities().items()
        if name in _UNTOUCHED
    }


STEP = Step(
    "Rotate twitter's credential",
    """One command changes the credential in the file of every node that holds it. Twitter opens the
    file for each call, so it needs no restart and no signal. No node is logged in to.""",
    _run,
    (*MANAGERS, *NODES, "twitter", "third-party"),
)
