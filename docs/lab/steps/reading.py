"""Reads what a thief of disks, a reader of the engine and a listener on the network would read."""

import re
import secrets
from pathlib import Path

from docs.lab.layout import MANAGERS, NODES
from docs.lab.shell import LabError
from docs.lab.stage import SERVICES, TWITTER, Lab
from docs.lab.steps.disk import search_disks
from docs.lab.steps.step import Step

_NAME, _LABEL = "atlantis-launch-code", "atlantis-landing"
_SIZES = {_NAME: 32, "neptune-archive-key": 190, "triton-certificate": 4_000}
_ALL_SIZES = (*_SIZES.values(), 32, 32, 40)


def _plant(lab: Lab) -> None:
    for name, size in _SIZES.items():
        file = lab.value_file(name)
        file.touch(0o600)
        file.write_text(secrets.token_hex(size // 2))
        label = ["--label", f"project={_LABEL}"] if name == _NAME else []
        lab.shell.run("strongroom", "secret", "create", name, str(file), *label)
    _needle(lab, "a-secret-name", _NAME)
    _needle(lab, "a-label", _LABEL)
    lab.shell.run("strongroom", "secret", "ls")
    listed = [one["name"] for one in lab.shell.ask("strongroom", "secret", "ls")]
    claim = "an operator sees the names"
    lab.narrator.observe(claim, seen=set(_SIZES) <= set(listed))


def _needle(lab: Lab, kind: str, text: str) -> None:
    lab.value_file(kind).write_text(text)


def _needles(lab: Lab) -> list[Path]:
    """Return the files with what must not be found: names and values."""
    return [lab.value_file(one) for one in ("a-secret-name", "a-label", _NAME, *_service_values())]


def _service_values() -> list[str]:
    return [service.secret for service in SERVICES]


def _read_engine(lab: Lab) -> None:
    socket = next(lab.layout.run_dir(lab.managers[0]).rglob("*.sock:0"), None)
    if socket is None:
        raise LabError("the first manager's engine has no socket")
    words = ["python", "docs/lab/probes/engine_keys.py", str(socket)]
    done = lab.shell.attempt(*words, *(str(file) for file in _needles(lab)))
    lab.narrator.look_at(
        """what one can still count: how many records of some kind, how large, and by asking twice,
        how often they change. Which kind, and whose, does not show."""
    )
    claim = "neither names nor values are in the engine, and the fixed name of the keyring is"
    lab.narrator.observe(claim, seen=done.code == 0)
    lab.narrator.say(
        f"""The secrets' values have {", ".join(str(size) for size in _ALL_SIZES)} bytes. Sizes are
        rounded up to classes: five of the six look alike, and the large one can be told from them.
        That is a size class, and it stays visible."""
    )
    values = re.search(r"^[0-9a-f]{16}  6  +(\d+) x 5, (\d+) x 1$", done.stdout, re.MULTILINE)
    claim = "six records of one kind: five of one size, one of another"
    lab.narrator.observe(claim, seen=values is not None)


def _search_disks(lab: Lab) -> None:
    lab.narrator.say("First the managers' own disks, for names and for values.")
    search_disks(lab, _needles(lab), lab.layout.state / "managers")
    lab.narrator.say(
        """Then everything: the nodes' disks, the logs, the operator's context. For values; names
        may be logged."""
    )
    values = [lab.value_file(one) for one in (_NAME, *_service_values())]
    search_disks(lab, values, lab.layout.state, control=False)


def _listen(lab: Lab) -> None:
    if lab.capabilities.delivery:
        lab.narrator.not_shown("a rotation on the wire", lab.capabilities.delivery)
        return
    socket = str(lab.layout.third_party_socket)
    new = lab.value_file("twitter-credential.2")
    lab.shell.run(*lab.third_party("issue", socket, str(new)))
    _needle(lab, "its-name", TWITTER.secret)
    words = ["python", "docs/lab/probes/wire_search.py"]
    words += ["--first-port", str(lab.layout.first_port), "--until", str(new)]
    words += ["--value", str(new), "--value", str(lab.value_file("its-name")), "--"]
    rotate = ["strongroom", "secret", "rotate", TWITTER.secret, str(new)]
    done = lab.shell.attempt(*words, *rotate)
    if done.code == 3:
        lab.narrator.not_shown("what passes on the wire", done.stdout.strip())
        return
    lab.narrator.look_at(
        """the third party's port. Twitter calls it over plain HTTP, so there the credential is
        seen: the listener works. On the managers' ports the same credential passed at the same
        time."""
    )
    _judge_wire(lab, done.stdout)


def _judge_wire(lab: Lab, told: str) -> None:
    rows = {
        int(port): (what, int(size), found)
        for port, what, size, found in re.findall(
            r"^(\d+)\s+(\S.*?)\s+(\d+)  (.*)$", told, re.MULTILINE
        )
    }
    third = rows.pop(lab.layout.third_party_port, ("", 0, ""))
    lab.narrator.observe(
        "control: the credential is seen in clear on",
        seen=third[0] if "twitter-credential.2" in third[2] else "no port",
        expected="the third party's API",
    )
    uses = {what.split()[-1] for what, size, _found in rows.values() if size}
    lab.narrator.observe("traffic was heard between clients and managers", seen="API" in uses)
    lab.narrator.observe("traffic was heard between the managers", seen="engine" in uses)
    clear = [what for what, _size, found in rows.values() if found != "nothing"]
    lab.narrator.observe(
        "ports of managers where it or its name is in clear", seen=clear, expected=[]
    )


PLANT = Step(
    "Give it something to find",
    """Names tell a thief as much as values do: what there is, and what it is worth. So names worth
    finding are stored, and values of three sizes.""",
    _plant,
    MANAGERS,
)
READ_ENGINE = Step(
    "Read the engine's records",
    """The storage engine is asked for everything it has, past the manager. It stores what it was
    given: records that were sealed above it, under keys that are digests.""",
    _read_engine,
    MANAGERS,
)
SEARCH_DISKS = Step(
    "Search every disk",
    """Databases, write-ahead logs, seal files, logs: as it is, in hexadecimal, in base64. Each
    time a value is planted first that the search must find.""",
    _search_disks,
    MANAGERS,
)
LISTEN = Step(
    "Listen on the network",
    """A rotation passes from the command to a manager, between the managers, and to a node. A
    listener on the machine's loopback hears all of it.""",
    _listen,
    (*MANAGERS, *NODES, "twitter", "third-party"),
)
