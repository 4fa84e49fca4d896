"""Secrets are created, services are placed, and only the nodes in question get a value."""

import secrets

from docs.lab.layout import MANAGERS, NODES
from docs.lab.stage import BLUE, RED, SERVICES, TWITTER, Lab, Service
from docs.lab.steps.step import Step

_SIDES = {NODES[0]: "left", NODES[1]: "right"}


def _run(lab: Lab) -> None:
    _start_third_party(lab)
    _create_secrets(lab)
    if lab.capabilities.delivery:
        lab.narrator.not_shown("services get their secrets", lab.capabilities.delivery)
        return
    for service in SERVICES:
        _create_service(lab, service)
    for service in SERVICES:
        _start_service(lab, service)
    lab.wait_until("the third party was called", lambda: lab.usage()["accepted"][0] > 0, "twitter")
    lab.narrator.observe(
        "the third party accepts twitter's calls", seen=lab.usage()["refused"] == 0
    )


def _start_third_party(lab: Lab) -> None:
    socket = str(lab.layout.third_party_socket)
    words = lab.third_party("serve", str(lab.layout.third_party_port), socket)
    lab.narrator.say("The third party whose API twitter calls; it issues its own credentials.")
    lab.narrator.command(words, " &")
    lab.processes.start("third-party", words)

    def answers() -> bool:
        return lab.shell.look(*lab.third_party("usage", socket)).code == 0

    lab.wait_until("the third party's API is up", answers, "third-party")
    lab.shell.run(*lab.third_party("issue", socket, str(lab.value_file(TWITTER.secret))))


def _create_secrets(lab: Lab) -> None:
    for service in (RED, BLUE):
        make_value(lab, service.secret)
    for service in SERVICES:
        file = str(lab.value_file(service.secret))
        lab.shell.run("strongroom", "secret", "create", service.secret, file)
    lab.shell.show("strongroom", "secret", "ls")
    lab.narrator.look_at("names, sizes and versions. No command brings a value back out.")
    listed = [one["name"] for one in lab.shell.ask("strongroom", "secret", "ls")]
    wanted = sorted(service.secret for service in SERVICES)
    lab.narrator.observe("secrets are stored", seen=sorted(listed), expected=wanted)


def make_value(lab: Lab, name: str) -> None:
    """Make up a value in a private file."""
    file = lab.value_file(name)
    file.touch(0o600)
    file.write_text(secrets.token_urlsafe(24))


def _create_service(lab: Lab, service: Service) -> None:
    words = ["strongroom", "service", "create", service.name]
    words += ["--secret", f"source={service.secret},target={service.target}"]
    words += ["--constraint", f"node.labels.side=={_SIDES[service.node]}"]
    words += ["--uid", str(service.uid), "--gid", str(service.uid)]
    if service is BLUE and not lab.capabilities.isolation:
        words += ["--on-change-signal", "HUP"]
    lab.shell.run(*words)
    lab.shell.show("strongroom", "service", "ps", service.name)
    tasks = lab.shell.ask("strongroom", "service", "ps", service.name)
    placed = [task["node"] for task in tasks]
    lab.narrator.observe(f"{service.name} is placed on", seen=placed, expected=[service.node])


def _start_service(lab: Lab, service: Service) -> None:
    lab.narrator.command(lab.service_command(service), " &")
    process = lab.processes.start(service.name, lab.service_command(service))

    def says_something() -> bool:
        return bool(process.last_lines())

    lab.wait_until(f"{service.name} has read its secret", says_something, service.name)
    lab.narrator.output("\n".join(process.last_lines()))


STEP = Step(
    "Create secrets, place services",
    """Red and blue run on node1, twitter on node2. A constraint over node labels decides. A node is
    sent the versions that a service placed on it refers to, and no others.""",
    _run,
    (*MANAGERS, *NODES, "third-party", "red", "blue", "twitter"),
)
