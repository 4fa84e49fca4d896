"""A worker's disk is stolen: what it opens before the node is evicted, and after."""

import shutil
from pathlib import Path

from docs.lab.layout import MANAGERS, NODES
from docs.lab.stage import BLUE, RED, TWITTER, Lab
from docs.lab.steps.disk import search_disks
from docs.lab.steps.step import Step

_NODE = TWITTER.node
_PROBE = ("python", "docs/lab/probes/stolen_certificate.py")


def _loot(lab: Lab) -> Path:
    return lab.layout.state / "scratch" / f"stolen-{_NODE}"


def _copy_disk(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown("a worker to steal", lab.capabilities.delivery)
        return
    source, loot = lab.layout.node_data(_NODE), _loot(lab)
    lab.narrator.command(["cp", "-a", str(source), str(loot)])
    loot.parent.mkdir(mode=0o700, exist_ok=True)
    shutil.copytree(source, loot)
    lab.shell.run("ls", "-l", str(loot))
    lab.narrator.look_at("the list: a key, a certificate, whom to trust. There is no secret.")
    search_disks(
        lab, [lab.value_file(one.secret) for one in (TWITTER, RED, BLUE)], loot, control=False
    )


def _ask(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown("what a stolen key opens", lab.capabilities.delivery)
        return
    loot = str(_loot(lab))
    own = lab.shell.attempt(*_PROBE, loot, "issue", TWITTER.name, TWITTER.secret)
    claim = "the thief gets the credential of twitter, which runs on that node"
    lab.narrator.observe(claim, seen=own.code == 0)
    other = lab.shell.attempt(*_PROBE, loot, "issue", RED.name, RED.secret)
    none = lab.shell.attempt(*_PROBE, loot, "issue", "no-such-service", "no-such-secret")
    lab.narrator.observe("he does not get red's (403)", seen=": 403 " in other.stdout)
    lab.narrator.observe(
        "what exists elsewhere and what does not exist read the same",
        seen=other.stdout == none.stdout,
    )
    for what, path in (
        ("names", "/v1/secrets"),
        ("services", "/v1/services"),
        ("nodes", "/v1/nodes"),
    ):
        done = lab.shell.attempt(*_PROBE, loot, "get", path)
        lab.narrator.observe(f"he is shown no {what} (403)", seen=": 403 " in done.stdout)


def _evict(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown("an eviction", lab.capabilities.delivery)
        return
    lab.shell.run("strongroom", "node", "rm", _NODE)
    mount = lab.mount_of(TWITTER)
    view = Path(f"/proc/{lab.processes[_NODE].popen.pid}/root{mount}/{TWITTER.target}")
    lab.wait_until("the node wiped what it held", lambda: not view.exists())
    lab.narrator.observe("the real node wiped twitter's file", seen=not view.exists())
    done = lab.shell.attempt(*_PROBE, str(_loot(lab)), "issue", TWITTER.name, TWITTER.secret)
    lab.narrator.observe("the thief gets nothing more", seen=done.code != 0)
    control = lab.shell.attempt(
        *_PROBE, str(lab.layout.node_data(NODES[0])), "issue", RED.name, RED.secret
    )
    lab.narrator.observe("control: node1's own key still gets red's", seen=control.code == 0)


def _rotate(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown("a rotation afterwards", lab.capabilities.delivery)
        return
    socket = str(lab.layout.third_party_socket)
    old, new = lab.value_file(TWITTER.secret), lab.value_file("twitter-credential.2")
    call = ["python", lab.app("twitter.py")]
    taken = lab.shell.attempt(*call, str(old), lab.third_party_url, "--once")
    claim = "what the thief has read before still works at the third party"
    lab.narrator.observe(claim, seen=taken.code == 0)
    lab.shell.run(*lab.third_party("issue", socket, str(new)))
    lab.shell.run("strongroom", "secret", "rotate", TWITTER.secret, str(new))
    lab.shell.run(*lab.third_party("revoke", socket, "1"))
    refused = lab.shell.attempt(*call, str(old), lab.third_party_url, "--once")
    lab.narrator.observe("now it is refused (401)", seen="401" in refused.stdout)
    good = lab.shell.attempt(*call, str(new), lab.third_party_url, "--once")
    lab.narrator.observe("control: the new credential is taken", seen=good.code == 0)


COPY_DISK = Step(
    "Steal the disk of node2",
    """The thief has a copy of everything that rests on the node: its data directory. Secrets are
    not there: they are files in memory.""",
    _copy_disk,
    (*MANAGERS, *NODES),
)
ASK = Step(
    "What he gets",
    """With the node's key he is the node. So he gets what a node gets: the secrets of the services
    that are placed on it. Nothing less, and nothing more.""",
    _ask,
    (*MANAGERS, *NODES),
)
EVICT = Step(
    "Evict the node",
    """One command. Every manager refuses the certificate from then on, whatever its dates say; the
    real node is told to wipe what it holds, and cut off.""",
    _evict,
    (*MANAGERS, *NODES),
)
ROTATE = Step(
    "What he has read",
    """He may have copied the credential before. That cannot be recalled by anybody: it must be
    changed where it is good for something.""",
    _rotate,
    (*MANAGERS, "third-party"),
)
