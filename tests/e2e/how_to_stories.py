"""How the commands of each page of docs/how-to come to be typed: what is there before, and what is
typed for placeholders."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.e2e.how_to_site import (
    files,
    retire,
    secrets,
    serving_health,
    token_for,
    type_on,
)
from tests.support.machines import Site


@dataclass
class Story:
    """How a page's commands are typed."""

    prepare: Callable[[Site], None] = lambda _: None
    """Brings about what the page takes for granted."""
    node: str = "n1"
    """The machine of `strongroom-agent` and of what is done to its files."""
    instead: dict[str, Callable[[Site], str]] = field(default_factory=dict)
    """Placeholders and times of the page -> what is typed for them."""
    codes: dict[str, frozenset[int]] = field(default_factory=dict)
    """Commands that do not end with 0."""
    before: dict[int, Callable[[Site], None]] = field(default_factory=dict)
    """What happens before the command of that number."""
    stdin: str = ""
    """The file that is typed into each command."""


def _compromised(site: Site) -> None:
    secrets(site, "db-password", "api-key")
    files(site, "new-key.txt")
    web = "strongroom service create web --secret db-password --uid 1001 --global"
    site["m1"].ok(web)
    only = "--constraint node.name==n2"
    site["m1"].ok(f"strongroom service create worker --secret api-key --uid 1002 {only}")


def _web(site: Site) -> None:
    serving_health(site)
    secrets(site, "db")
    site["m1"].ok("strongroom service create web --secret db --uid 1001 --global")
    files(site, "new.txt")


def _rotated(site: Site) -> None:
    secrets(site, "db-password")
    site["m1"].ok("strongroom service create web --secret db-password --uid 1001 --replicas 2")
    files(site, "new-password.txt")


def _spiffe(site: Site) -> None:
    secrets(site, "db-password")
    create = "strongroom service create red --secret db-password --certificate --uid 1000"
    site["m1"].ok(f"{create} --constraint node.name==n1")
    site["n1"].program("red", "#!/bin/sh\ntest -S /run/strongroom/spiffe.sock\n")


def _audited(site: Site) -> None:
    secrets(site, "db")


def _request_id(site: Site) -> str:
    (site.home / "none").write_bytes(b"")
    done = site["m1"].run("strongroom secret rm nothing-of-that-name")
    (found,) = re.findall(r"[a-z2-7]{26}", done.stderr.decode())
    return str(found)


def _locked(site: Site) -> None:
    machine = site["m1"]
    (command,) = [one for one in machine.started if one.startswith("strongroom manager run")]
    machine.end(command)
    type_on(machine, command)


def _zones(site: Site) -> None:
    secrets(site, "db", "old")
    serving_health(site)
    for name in ("n1", "n2", "n3"):
        site["m1"].ok(f"strongroom node update {name} --label-add zone=a --label-add rack=1")
    site["m1"].ok("strongroom service create web --secret db --secret old --uid 1001 --replicas 2")


def _bad_value(site: Site) -> None:
    (site.home / "new.txt").write_text("a bad one")


def _dead(site: Site) -> None:
    site["m3"].end("strongroom manager run")


STORIES: Final = {
    "a-node-is-compromised": Story(_compromised),
    "application-certificates": Story(lambda site: secrets(site, "db-password")),
    "dead-mans-switch": Story(lambda site: secrets(site, "card-key", "db")),
    "doctor": Story(),
    "engine-full": Story(),
    "expired-nodes": Story(lambda site: site["n3"].end("strongroom-agent run"), node="n3"),
    "follow-events": Story(),
    "health-checks": Story(_web),
    "join": Story(lambda site: retire(site, "n3"), node="n3"),
    "lose-a-manager": Story(_dead),
    "node-removed-or-stolen": Story(
        lambda site: token_for(site, "n3", "n3.token"),
        node="n3",
        before={1: lambda site: site["n3"].end("strongroom-agent run")},
    ),
    "read-the-audit": Story(_audited, instead={"3kqd...": _request_id}),
    "replace-a-manager": Story(),
    "roll-out-safely": Story(
        _web,
        instead={"10s": lambda _: "1s", "30s": lambda _: "1s", "1m": lambda _: "1s"},
        before={3: _bad_value},
        codes={"strongroom secret rotate db new.txt": frozenset({0, 6})},
    ),
    "rotate-a-secret": Story(_rotated),
    "spiffe-workload-api": Story(_spiffe),
    "tasks": Story(_zones, instead={"w1": lambda _: "n1"}),
    "unlock": Story(_locked, stdin="unlock.key"),
}
ALONE: Final = ("migrate-to-etcd", "scheduled-rotation")
"""Pages about one manager."""
