"""A third party behind a hook: a file of accepted credentials, and a log of every call.

Until its first call it accepts the credential that is in use then, and none else.
The hook is a program of its own that takes no part of the project in; it is idempotent by the
operation's id, refuses some operations for good, and loses the answer of some first calls.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOOK: Final = "party"
"""Name of the hook."""
_PROGRAM: Final = '''#!{python} -I
"""Carries a call out as often as it comes."""
import base64, fcntl, hashlib, json, os, sys, time

BASE = {base!r}
call = json.load(sys.stdin)
operation, action = call["operation"], call["action"]
digest = lambda text: hashlib.sha256(base64.b64decode(text)).hexdigest()[:16]
with open(BASE + "/lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with open(BASE + "/state") as file:
            state = json.load(file)
    except FileNotFoundError:
        first = [digest(call["previous"]["value"])]
        state = {{"accepted": first, "known": {{}}, "done": {{}}, "calls": {{}}}}
    for side in ({{"version": call["version"], "value": call["value"]}}, call["previous"]):
        if side["value"] is not None:
            state["known"][str(side["version"])] = digest(side["value"])
    new = state["known"].get(str(call["version"]))
    old = state["known"].get(str(call["previous"]["version"]))
    done = state["done"].setdefault(operation, [])
    again = action in done or "retire" in done or "rollback" in done
    drawn = hashlib.sha256((operation + action).encode()).digest()
    count = state["calls"][operation + action] = state["calls"].get(operation + action, 0) + 1
    yes = again or not (action in ("prepare", "confirm") and drawn[0] < {refused})
    if action == "confirm" and new not in state["accepted"]:
        yes = again
    if yes and not again:
        accepted = set(state["accepted"])
        if action == "prepare":
            accepted.add(new)
        elif action == "retire":
            accepted.discard(old)
        elif action == "rollback":
            accepted.discard(new)
            accepted.add(old)
        state["accepted"] = sorted(accepted)
        done.append(action)
    lost = yes and count == 1 and drawn[1] < 64
    with open(BASE + "/state.new", "w") as file:
        json.dump(state, file)
    os.rename(BASE + "/state.new", BASE + "/state")
    line = [time.monotonic(), operation, action, call["version"], yes, again, state["accepted"]]
    with open(BASE + "/log", "a") as log:
        log.write(json.dumps(line) + "\\n")
    time.sleep(drawn[2] / 500)
sys.exit(0 if yes and not lost else 1)
'''
REFUSED: Final = 32
"""Of 256 operations, how many are refused for good, in prepare and in confirm each."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the hook, as the third party remembers it."""

    at: float
    operation: str
    action: str
    version: int
    yes: bool
    again: bool
    accepted: tuple[str, ...]
    """Digests of what it accepts from then on."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A credential that a node was issued between two moments."""

    start: float
    end: float
    digest: str


def digest_of(value: bytes) -> str:
    """Return the digest by which a credential is known here."""
    return hashlib.sha256(value).hexdigest()[:16]


def set_up(base: Path) -> Path:
    """Write the hook and return its directory; the third party's own files lie beside it."""
    hooks, party = base / "hooks", base / "party"
    for directory in (hooks, party):
        directory.mkdir(mode=0o755)
    program = hooks / HOOK
    program.write_text(_PROGRAM.format(python=sys.executable, base=str(party), refused=REFUSED))
    program.chmod(0o755)
    return hooks


def calls(base: Path) -> list[Call]:
    """Return every call so far."""
    log = base / "party" / "log"
    if not log.exists():
        return []
    lines = map(json.loads, log.read_text().splitlines())
    return [
        Call(at, operation, action, version, yes, again, tuple(accepted))
        for at, operation, action, version, yes, again, accepted in lines
    ]


def party_faults(
    told: Sequence[Call], issued: Iterable[Issued], pushed: Iterable[tuple[int, float]]
) -> Iterator[str]:
    """Yield which credentials were in use and not accepted.

    `pushed`: versions that became primary, and when this was seen at the latest.
    """
    for version, at in pushed:
        ready = (one.at for one in told if (one.action, one.version) == ("prepare", version))
        if min(ready, default=at + 1) > at:
            yield f"version {version} is primary, and the third party was not prepared for it"
    for one in issued:
        if not told or one.start < told[0].at:
            continue  # nothing is known of what it accepted before its first call
        if not any(one.digest in accepted for accepted in _during(told, one.start, one.end)):
            yield (
                f"what a node was issued between {one.start:.2f} and {one.end:.2f} "
                "was accepted at no moment of that"
            )


def _during(told: Sequence[Call], start: float, end: float) -> Iterator[tuple[str, ...]]:
    """Yield what was accepted at some moment between two."""
    for index, call in enumerate(told):
        until = told[index + 1].at if index + 1 < len(told) else end
        if call.at <= end and until >= start:
            yield call.accepted
