"""Two reds talk mutual TLS while their certificates are renewed; blue is refused by red."""

from docs.lab.layout import NODES, PYTHON
from docs.lab.stage import BLUE, RED, Lab, Service
from docs.lab.steps.copies import on_node, said_by, start_copy
from docs.lab.steps.placing import make_value
from docs.lab.steps.step import Step

_INVOLVED = ("m1", *NODES, "red-node1", "red-node2", "blue-node1")
_FAR = on_node(RED, NODES[1])
_SERVER, _CLIENT = f"{RED.name}-{RED.node}", f"{RED.name}-{_FAR.node}"
_RED = "spiffe://strongroom.internal/service/red"
_BLUE = "spiffe://strongroom.internal/service/blue"
_RENEWALS = 2
_MANY = 100
_NOT_SHOWN = "services that know each other by their certificates"


def _give(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    update = ("strongroom", "service", "update")
    everywhere = ("--constraint-rm", "node.labels.side==left", "--global")
    lab.shell.run(*update, RED.name, *everywhere, "--certificate")
    lab.shell.run(*update, BLUE.name, "--certificate")
    lab.shell.run(*lab.exec_words(RED, "ls", "-l", "/run/secrets/..data/"))
    lab.narrator.look_at("tls.key: each node made its own, and sent it nowhere.")
    keys = [_digest(lab, service, "tls.key") for service in (RED, _FAR, BLUE)]
    lab.narrator.observe("keys, all different", seen=len(set(keys) - {""}), expected=3)
    anchors = [_digest(lab, service, "ca.crt") for service in (RED, _FAR, BLUE)]
    lab.narrator.observe("whom they trust: the same authority", seen=len(set(anchors)) == 1)


def _talk(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    start_copy(lab, RED, _app(lab, "listen", 0))
    start_copy(lab, _FAR, _app(lab, "call", 0))
    lab.wait_until("red answers red", lambda: len(said_by(lab, _CLIENT)) >= 3, *_ends())
    lab.narrator.output("\n".join(said_by(lab, _SERVER)[1:4]))
    lab.narrator.observe("requests that failed", seen=_failed(lab), expected=[])


def _refuse(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    blue = lab.shell.attempt(*lab.exec_words(BLUE, *_app(lab, "call", 0), "3"))
    lab.narrator.observe("blue gets no answer from red", seen=blue.code == 1)
    met = [line for line in said_by(lab, _SERVER) if line.startswith(f"{_BLUE} ")]
    lab.narrator.output("\n".join(met))
    refused = len(met) == 3 and all(line.endswith(" refused") for line in met)
    lab.narrator.observe("red saw a valid certificate, and who it is: blue", seen=refused)
    red = lab.shell.attempt(*lab.exec_words(RED, *_app(lab, "call", 0), "1"))
    lab.narrator.observe("control: red on the same node is answered", seen=red.code == 0)
    lab.narrator.say("The other way: blue listens, and red calls it by mistake.")
    start_copy(lab, BLUE, _app(lab, "listen", 1))
    deceived = lab.shell.attempt(*lab.exec_words(RED, *_app(lab, "call", 1), "1"))
    mismatch = deceived.code == 1 and "certificate is not valid for 'red'" in deceived.stdout
    lab.narrator.observe("red says nothing to a certificate of blue's", seen=mismatch)


def _renew(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    make_value(lab, f"{RED.secret}.2")
    new = str(lab.value_file(f"{RED.secret}.2"))
    lab.shell.run("strongroom", "secret", "rotate", RED.secret, new)
    lab.narrator.say("A secret beside the certificate was changed as well: it is one set of files.")

    def renewed() -> bool:
        return min(len(_serials(lab, end)) for end in _ends()) > _RENEWALS

    lab.wait_until("both ends were renewed twice", renewed, *_ends())
    for end, whose in ((_CLIENT, RED), (_SERVER, _FAR)):
        serials = _serials(lab, end)
        lab.narrator.output(f"certificates of red on {whose.node}: {', '.join(serials)}")
        claim = f"renewed while they talk: red on {whose.node}"
        lab.narrator.observe(claim, seen=len(serials) > _RENEWALS)
    answered = len(said_by(lab, _CLIENT))
    lab.narrator.observe("requests that failed", seen=_failed(lab), expected=[])
    lab.narrator.observe("requests were made all the time", seen=answered > _MANY)
    running = [lab.processes[end].is_running for end in _ends()]
    lab.narrator.observe("nothing was restarted", seen=running, expected=[True, True])


def _app(lab: Lab, verb: str, number: int) -> list[str]:
    port = str(lab.layout.story_port(number))
    return [PYTHON, "-I", lab.app("mutual_tls.py"), verb, port, _RED]


def _ends() -> tuple[str, str]:
    return _SERVER, _CLIENT


def _failed(lab: Lab) -> list[str]:
    """Return what red on node2 said of requests that were not answered by red."""
    wanted = f"{_RED} "
    return [
        line
        for line in said_by(lab, _CLIENT)
        if not (line.startswith(wanted) and line.endswith(" answered"))
    ]


def _serials(lab: Lab, end: str) -> list[str]:
    """Return the certificates of red that an end met, in order; not those on the server's node."""
    met = [line.split()[1] for line in said_by(lab, end) if line.startswith(f"{_RED} ")]
    # Red on node1 has called itself once, as a control.
    own = _serials(lab, _CLIENT) if end == _SERVER else []
    return [serial for serial in dict.fromkeys(met) if serial not in own]


def _digest(lab: Lab, service: Service, name: str) -> str:
    done = lab.shell.look(*lab.exec_words(service, "sha256sum", f"/run/secrets/{name}"))
    return done.stdout.split()[0] if done.code == 0 else ""


GIVE = Step(
    "Certificates for services",
    """Red runs on both nodes now. One flag gives a service a certificate: its name and nothing
    else, for servers and clients. In this lab it lives for twenty seconds instead of an hour, so
    that you can watch.""",
    _give,
    _INVOLVED,
)
TALK = Step(
    "Red talks to red",
    """Red on node2 calls red on node1, ten times a second, each time over a new connection. Both
    ends ask for a certificate, and look who it is.""",
    _talk,
    _INVOLVED,
)
REFUSE = Step(
    "Blue is refused",
    """Blue is a service of the same cluster, on the same node as red. Its certificate is as valid
    as red's. It only is not red's.""",
    _refuse,
    _INVOLVED,
)
RENEW = Step(
    "Through several renewals",
    """The agents renew at a random point between 50 and 80 % of a certificate's life, and swap
    the whole set of files. The reds load it again for their next connection.""",
    _renew,
    _INVOLVED,
)
