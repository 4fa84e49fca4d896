"""A cluster of machines on which the commands of docs/how-to are typed, and what its pages take for
granted."""

import json
from pathlib import Path
from typing import Final

from tests.e2e.how_to_pages import FIRST, commands_of, typed_elsewhere
from tests.support.machines import Machine, Site
from tests.support.running import wait_until

RUN_ON: Final = (
    "strongroom manager run",
    "strongroom-agent run",
    "strongroom-agent spiffe --service",
    "strongroom events --follow",
    "strongroom audit tail -f",
)
FINDINGS: Final = ("strongroom doctor", "strongroom-agent doctor")
"""They end with 1 where this machine is weak, which is not their page's fault."""


def type_on(
    machine: Machine, command: str, codes: frozenset[int] = frozenset({0}), stdin: bytes = b""
) -> str:
    """Type a command of a page; one that runs on is left running."""
    command = command.replace("/root/", "")
    if command.startswith(RUN_ON):
        process = machine.start(command)
        if command.startswith(RUN_ON[:3]):
            wait_until(lambda: not process.running or _serves(machine, command), command)
        assert process.running, (command, process.text())
        return ""
    done = machine.run(command, stdin)
    wanted = codes | {1} if command.startswith(FINDINGS) else codes
    assert done.returncode in wanted, (machine.name, command, done.stdout, done.stderr)
    return done.stdout.decode()


def _serves(machine: Machine, command: str) -> bool:
    if "manager" in command:
        return machine.run("test -S /run/strongroom/admin.sock").returncode == 0
    said = "spiffe.started" if "spiffe" in command else "session.opened"
    return said in machine.started[command].text()


def first_cluster(site: Site) -> list[str]:
    """Follow the first page, and do as it says for the third manager and the second node; return
    what was typed."""
    for number in (1, 2, 3):
        site.add(f"m{number}", f"10.0.0.{number}")
    for number in (1, 2):
        site.add(f"n{number}", f"10.0.0.1{number}")
    typed = [one for one in commands_of(FIRST) if not typed_elsewhere(FIRST, one)]
    for command in typed:
        if command.startswith("strongroom-agent"):
            type_on(site["n1"], command)
            if not command.startswith("strongroom-agent exec"):
                type_on(site["n2"], command.replace("--name n1", "--name n2"))
        elif "--name m2 --advertise" in command or "m2.token --unlock" in command:
            type_on(site["m2"], command)
            type_on(site["m3"], command.replace("m2", "m3").replace("10.0.0.2", "10.0.0.3"))
        else:
            type_on(site["m1"], command)
    return typed


def sealed_site(home: Path) -> Site:
    """Return one machine with a manager on SQLite and hooks."""
    site = Site(home)
    machine = site.add("s1", "10.0.0.21")
    hooks = home / "hooks"
    hooks.mkdir(mode=0o700)
    (hooks / "db").write_text("#!/bin/sh\ncat > /dev/null\n")
    (hooks / "db").chmod(0o700)
    type_on(
        machine, f"strongroom manager run --name s1 --advertise 10.0.0.21 --hook-directory {hooks}"
    )
    type_on(machine, "strongroom init --engine sqlite --unlock-key-file s1.key")
    return site


# --- what a page takes for granted --------------------------------------------------------------


def secrets(site: Site, *names: str) -> None:
    for name in names:
        site["m1"].ok(f"strongroom secret create {name} -", b"a value")


def files(site: Site, *names: str) -> None:
    for name in names:
        (site.home / name).write_text(f"the content of {name}")


def clean(site: Site) -> None:
    """Remove what the page before made, and bring all nodes and managers back."""
    first = site["m1"]
    for kind in ("service", "secret"):
        for name in first.ok(f"strongroom {kind} ls -q").split():
            first.ok(f"strongroom {kind} rm {name}")
    for token in site.home.glob("*.token"):
        token.unlink()
    for name in ("n1", "n2", "n3"):
        ensure_node(site, name)


def ensure_node(site: Site, name: str) -> None:
    """Have a node ready, as a new one where the old one was removed."""
    if name not in site.machines:
        site.add(name, f"10.0.0.1{name[1:]}")
    machine, first = site[name], site["m1"]
    nodes = json.loads(first.ok("strongroom node ls --format json"))
    runs = any("strongroom-agent run" in command for command in machine.started)
    if runs and any(one["name"] == name and one["state"] == "ready" for one in nodes):
        return
    retire(site, name)
    first.ok(f"strongroom token create --role worker --name {name} --output {name}.join")
    machine.ok(
        f"strongroom-agent join --manager 10.0.0.1:7444 --name {name} --token-file {name}.join"
    )
    (site.home / f"{name}.join").unlink()
    type_on(machine, "strongroom-agent run")


def retire(site: Site, name: str) -> None:
    """Remove a node and what its machine knows of the cluster."""
    site[name].end("strongroom-agent run")
    site["m1"].run(f"strongroom node rm {name}")
    site[name].ok("rm -rf /var/lib/strongroom-agent")


def token_for(site: Site, name: str, file: str) -> None:
    site["m1"].ok(f"strongroom token create --role worker --name {name} --output {file}")


def ensure_manager(site: Site, name: str) -> None:
    """Join a manager anew that was removed."""
    machine, number = site[name], name[1:]
    machine.end("strongroom manager run")
    machine.ok("rm -rf /var/lib/strongroom")
    type_on(machine, f"strongroom manager run --name {name} --advertise 10.0.0.{number}")
    site["m1"].ok(f"strongroom token create --role manager --name {name} --output {name}.new")
    shown = f"--token-file {name}.new --unlock-key-file unlock.key"
    machine.ok(f"strongroom join --manager 10.0.0.1:7444 {shown}")
    (site.home / f"{name}.new").unlink()


def serving_health(site: Site) -> None:
    """Have an application on each node that says it is well, and a program that checks one."""
    for name in ("n1", "n2", "n3"):
        machine = site[name]
        machine.program("check-database", "#!/bin/sh\n! grep -q bad /run/secrets/db\n")
        if not any("http.server" in command for command in machine.started):
            machine.start(f"python3 -m http.server 8080 --bind 127.0.0.1 --directory {site.home}")
    (site.home / "healthz").write_text("well")
