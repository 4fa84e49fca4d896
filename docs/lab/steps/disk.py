"""No file of the managers and nodes holds a value."""

import base64
import secrets
from collections.abc import Sequence
from pathlib import Path

from docs.lab.layout import MANAGERS
from docs.lab.stage import SERVICES, Lab
from docs.lab.steps.step import Step


def _run(lab: Lab) -> None:
    values = [lab.value_file(service.secret) for service in SERVICES]
    search_disks(lab, values, lab.layout.state)


def search_disks(
    lab: Lab, needles: Sequence[Path], directory: Path, *, control: bool = True
) -> None:
    """Search a directory of the lab's state for needles, and show that the search finds things.

    `control`: search once more for a planted value that is not there.
    """
    scratch = directory / "scratch"
    scratch.mkdir(mode=0o700, exist_ok=True)
    planted = lab.value_file("planted")
    value = secrets.token_urlsafe(24).encode()
    planted.touch(0o600)
    planted.write_bytes(value)
    encoded = base64.b64encode(b"a" + value)
    (scratch / "planted.txt").write_bytes(b"\n".join((value, value.hex().encode(), encoded)))
    words = ["python", "docs/lab/probes/disk_search.py", "--planted", str(planted)]
    for needle in needles:
        words += ["--value", str(needle)]
    done = lab.shell.attempt(*words, str(directory))
    lab.narrator.look_at("`planted` is found in three forms, and the others nowhere.")
    lab.narrator.observe("the search finds the planted value and no secret", seen=done.code == 0)
    (scratch / "planted.txt").unlink()
    if not control:
        return
    blind = lab.shell.look(*words, str(directory))
    proves_nothing = blind.code == 1 and "proves nothing" in blind.stdout
    claim = "control: without the planted value the search says that it proves nothing"
    lab.narrator.observe(claim, seen=proves_nothing)


STEP = Step(
    "The store on disk holds no value",
    """Everything that the managers, their etcd members and the nodes have on disk is searched:
    databases, logs, keys, contexts. As it is, in hexadecimal, in base64. First a value is planted
    that the search must find.""",
    _run,
    MANAGERS,
)
