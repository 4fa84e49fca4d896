"""What raftos does where it matters, beside etcd: the same is tried with both, at the same time."""

import re
from pathlib import Path

from docs.lab.narrator import Narrator
from docs.lab.raftos.library import Library
from docs.lab.shell import LabError
from docs.lab.stage import Lab
from docs.lab.steps.step import Step

Table = dict[str, dict[str, str]]
_NOT_SHOWN = "what raftos does"


def _install(lab: Lab) -> None:
    library = Library(lab.layout.repository)
    for command in library.commands():
        lab.narrator.command(command, "" if library.is_current else " # once")
    reason = "" if library.is_current else library.install()
    if reason:
        lab.narrator.not_shown(_NOT_SHOWN, f"it could not be installed ({reason})")
        return
    lab.narrator.observe("raftos is installed, apart from everything else", seen=True)


def _write(lab: Lab) -> None:
    if not _is_installed(lab):
        return
    told = _exhibit(lab, "together")
    (row,) = told.values()
    claim = "raftos: writes that were never answered, of five at once"
    lab.narrator.observe(claim, seen=int(row["raftos"]) < 5)
    lab.narrator.observe("etcd acknowledges all five", seen=int(row["etcd"]), expected=5)
    acknowledged, read = _exhibit(lab, "large").values()
    lost = (acknowledged["raftos"], read["raftos"])
    lab.narrator.observe("raftos: the large value", seen=lost, expected=("False", "False"))
    kept = (acknowledged["etcd"], read["etcd"])
    lab.narrator.observe("etcd: the large value", seen=kept, expected=("True", "True"))


def _split(lab: Lab) -> None:
    if not _is_installed(lab):
        return
    judge_split(lab.narrator, _exhibit(lab, "split"))


def judge_split(narrator: Narrator, told: Table) -> None:
    """Record what the rows of a split say, and what they should."""
    _names, sides, gone, after = told.values()
    narrator.observe("raftos: sides that acknowledge", seen=int(sides["raftos"]), expected=2)
    narrator.observe(
        "raftos: acknowledged writes that are gone", seen=int(gone["raftos"]), expected=1
    )
    narrator.observe(
        "control: with the majority counted right", seen=int(sides["repaired"]), expected=0
    )
    narrator.observe("etcd: sides that acknowledge", seen=int(sides["etcd"]), expected=0)
    claim = "control: etcd goes on once the cut has healed"
    narrator.observe(claim, seen=after["etcd"] == "True")


def _vote(lab: Lab) -> None:
    if not _is_installed(lab):
        return
    judge_votes(lab.narrator, _exhibit(lab, "votes"))


def judge_votes(narrator: Narrator, told: Table) -> None:
    """Record what the rows of the votes say, and what they should."""
    before, after = told.values()
    claim = "control: without a restart, both vote once in a term"
    narrator.observe(claim, seen=(before["raftos"], before["etcd"]), expected=("1", "1"))
    claim = "raftos: candidates with its vote after a restart"
    narrator.observe(claim, seen=int(after["raftos"]), expected=2)
    claim = "etcd: candidates with its vote after a restart"
    narrator.observe(claim, seen=int(after["etcd"]), expected=1)


def _is_installed(lab: Lab) -> bool:
    if Library(lab.layout.repository).is_current:
        return True
    lab.narrator.not_shown(_NOT_SHOWN, "it could not be installed")
    return False


def _exhibit(lab: Lab, check: str) -> Table:
    """Run a check with each kind of cluster; return what it prints: by row, by column."""
    python = str(Library(lab.layout.repository).python)
    places = ["--python", python, "--etcd", str(lab.layout.etcd)]
    places += ["--directory", str(_scratch(lab, check))]
    told = lab.shell.follow("python", "-m", "docs.lab.raftos.exhibit", check, *places)
    rows = [re.split(r"  +", line) for line in told]
    if len(rows) < 2:
        raise LabError(f"the check {check} printed nothing")
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[1:]}


def _scratch(lab: Lab, check: str) -> Path:
    directory = lab.layout.state / "scratch" / f"raftos-{check}"
    directory.mkdir(mode=0o700, parents=True)
    return directory


INSTALL = Step(
    "Install it as far as it can be",
    """raftos 0.2.6 is of 2017. It pins a cryptography of 2016, and wants a Python before 3.10. So
    it gets a venv of its own without what it depends on, and a shim for the four names that went
    away since. What it decides is left as it is.""",
    _install,
    (),
)
WRITE = Step(
    "Write, with no fault at all",
    """Three nodes each. Five writes at once, each under a name of its own; then one value of 70,000
    characters. raftos sends datagrams, and a datagram has room for 65,507 bytes.""",
    _write,
    (),
)
SPLIT = Step(
    "Cut four nodes into two and two",
    """A majority of four is three, so neither side may go on. raftos leaves the node itself out
    when it counts the nodes, and takes two for a majority. The column in the middle is raftos with
    that one line repaired: the cut is the same.""",
    _split,
    (),
)
VOTE = Step(
    "Ask for the same vote twice",
    """A node has one vote a term, or two leaders can be elected in one. Two candidates ask one
    node; then its power fails; then the second candidate asks again.""",
    _vote,
    (),
)
