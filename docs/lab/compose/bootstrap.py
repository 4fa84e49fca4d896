"""Founds the lab's cluster once: the first manager, two more, two nodes. Run by docker-compose.yml.

It stands in for the operator of docs/how-to/first-cluster.md, and types what he would type. Tokens
go to the nodes over volumes in memory, the unlock key to one of its own: neither is ever a word of
a command or of a log. Started again it takes up what is missing, and never founds over data.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

MANAGERS = ("m1", "m2", "m3")
NODES: Mapping[str, str] = {"node1": "left", "node2": "right"}
"""Name -> the label `side`."""
ADMIN = Path("/run/managers")
JOIN = Path("/run/join")
UNLOCK_KEY = Path("/run/unlock/key")
CONTEXT = "lab"
PERIOD_S = 0.5
COMMAND_TIMEOUT_S = 120.0
TOKEN_MODE = 0o440
"""The volume's group, which files inherit, is the agent's."""


class BootstrapError(Exception):
    """Nothing more can be done; the message says why and what to do."""


def run(*words: str) -> str:
    """Return what a command prints; raise BootstrapError with what it complains of."""
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise BootstrapError(f"`{' '.join(words[:3])}` says: {done.stderr.strip()}")
    return done.stdout


def ask(*words: str) -> Any:  # noqa: ANN401  # JSON of some command
    """Return what a command of the operator prints as JSON."""
    return json.loads(run("strongroom", *words, "--format", "json"))


def say(text: str) -> None:
    """Tell whoever reads the log."""
    sys.stdout.write(f"bootstrap: {text}\n")
    sys.stdout.flush()


def wait_until(check: Callable[[], bool], patience_s: float, otherwise: str) -> None:
    """Wait until `check` holds; raise BootstrapError if it does not."""
    end = time.monotonic() + patience_s
    while not check():
        if time.monotonic() > end:
            raise BootstrapError(otherwise)
        time.sleep(PERIOD_S)


def admin_socket(manager: str) -> str:
    """Return the path of a manager's admin socket."""
    return str(ADMIN / manager / "admin.sock")


def state_of(manager: str) -> str:
    """Return where a manager stands, or nothing if it does not answer."""
    try:
        return str(ask("status", "--admin-socket", admin_socket(manager))["state"])
    except BootstrapError:
        return ""


def settled_states(patience_s: float) -> dict[str, str]:
    """Return where each manager stands, once all answer and none is on its way."""
    states: dict[str, str] = {}
    for manager in MANAGERS:

        def settled(manager: str = manager) -> bool:
            states[manager] = state_of(manager)
            return states[manager] in {"empty", "locked", "serving"}

        wait_until(
            settled,
            patience_s,
            f"manager {manager} does not answer on its admin socket; nothing was changed. Is it in"
            f" the compose file, and up? See `docker-compose logs {manager}`, then start bootstrap"
            " again",
        )
    return states


def found(states: Mapping[str, str]) -> None:
    """Found the cluster on the first manager, if no manager holds data."""
    first = MANAGERS[0]
    with_data = [name for name in MANAGERS if states[name] != "empty"]
    if states[first] != "empty":
        return
    if with_data:
        raise BootstrapError(
            f"{first} is empty, while data of a cluster are on {' and '.join(with_data)}; nothing"
            " was changed. See docs/how-to/lose-a-manager.md, or start over with `down -v`"
        )
    # A key that nothing was founded with opens nothing.
    UNLOCK_KEY.unlink(missing_ok=True)
    words = ("--engine", "etcd", "--context", CONTEXT, "--unlock-key-file", str(UNLOCK_KEY))
    run("strongroom", "init", "--admin-socket", admin_socket(first), *words)
    say(f"{first} founded a cluster; the unlock key is in memory, in {UNLOCK_KEY} of each manager")
    say("save it now:  docker-compose exec -T m1 cat /run/unlock/key > unlock.key")


def join_managers(states: Mapping[str, str]) -> None:
    """Let the empty managers in, each by a token of its own."""
    for manager in MANAGERS[1:]:
        if states[manager] != "empty":
            continue
        if not UNLOCK_KEY.exists():
            raise BootstrapError(
                f"{manager} is empty, and the unlock key is gone from memory: join it by hand, see"
                " docs/how-to/containers.md"
            )
        with tempfile.TemporaryDirectory() as directory:
            token = str(Path(directory) / "token")
            run("strongroom", "token", "create", "--role", "manager", "--output", token)
            by = ("--token-file", token, "--unlock-key-file", str(UNLOCK_KEY))
            where = ("--admin-socket", admin_socket(manager), "--manager", f"{MANAGERS[0]}:7444")
            run("strongroom", "join", *where, *by)
        say(f"{manager} joined")


def known_nodes() -> dict[str, str]:
    """Return the state of each node, by name."""
    return {str(node["name"]): str(node["state"]) for node in ask("node", "ls")}


def is_ready(node: str) -> bool:
    """Return whether a node has joined and is connected."""
    return known_nodes().get(node) == "ready"


def admit_nodes(patience_s: float) -> None:
    """Bring each node that is missing a token for itself alone, and wait until all are ready."""
    for node in NODES:
        if node not in known_nodes():
            hand_token(node)
            say(f"{node} has a join token")
    for node, side in NODES.items():
        wait_until(
            partial(is_ready, node),
            patience_s,
            f"{node} is not ready; see `docker-compose logs {node}`, then start bootstrap again",
        )
        run("strongroom", "node", "update", node, "--label-add", f"side={side}")
        say(f"{node} is ready")


def hand_token(node: str) -> None:
    """Put a single-use token for one name where only that node's agent reads."""
    token, place = JOIN / node / ".token", JOIN / node / "token"
    token.unlink(missing_ok=True)
    worker = ("--role", "worker", "--name", node, "--ttl", "15m", "--output", str(token))
    run("strongroom", "token", "create", *worker)
    token.chmod(TOKEN_MODE)
    # Complete before it is seen.
    token.rename(place)


def tell_locked(locked: Sequence[str], empty: Sequence[str]) -> None:
    """Tell how to unlock; raise BootstrapError if that leaves something to be done afterwards."""
    for manager in locked:
        say(f"{manager} is locked, as after every full stop. Its data are untouched. Unlock it:")
        say(f"  docker-compose exec -T {manager} strongroom unlock --detach < unlock.key")
    if empty:
        raise BootstrapError(
            f"{' and '.join(empty)} hold no data; unlock the others, then start me again"
        )


def main() -> int:
    """Do what is missing; return an exit code."""
    parser = argparse.ArgumentParser(description="Found the lab's cluster, once.")
    parser.add_argument("--patience", type=float, default=90.0, metavar="SECONDS")
    patience_s = parser.parse_args().patience
    try:
        states = settled_states(patience_s)
        locked = [name for name in MANAGERS if states[name] == "locked"]
        if locked:
            tell_locked(locked, [name for name in MANAGERS if states[name] == "empty"])
            return 0
        found(states)
        join_managers(states)
        admit_nodes(patience_s)
    except (BootstrapError, OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"bootstrap: {error}\n")
        return 1
    say("the cluster is up; docker-compose exec operator strongroom status")
    return 0


if __name__ == "__main__":
    sys.exit(main())
