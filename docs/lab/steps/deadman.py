"""Node2 loses the managers: what was lent goes, what was given stays, all comes back."""

import signal
import time
from pathlib import Path

from docs.lab.layout import HOST, MANAGERS, NODES, PYTHON
from docs.lab.stage import RED, TWITTER, Lab
from docs.lab.steps.copies import said_by
from docs.lab.steps.placing import make_value
from docs.lab.steps.step import Step

_CABLE = "cable"
_INVOLVED = ("m1", *NODES, _CABLE, "twitter")
_NODE = TWITTER.node
_KEPT = "twitter-settings"
_LENT = "on-lease-loss=wipe,lease=30s"
_NOT_SHOWN = "a node that loses its managers"
_WITHOUT = "twitter: there is no credential"
_ACCEPTED = "twitter: the API answers 200"


def _lend(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    make_value(lab, _KEPT)
    lab.shell.run("strongroom", "secret", "create", _KEPT, str(lab.value_file(_KEPT)))
    lent = f"source={TWITTER.secret},target={TWITTER.target},{_LENT}"
    update = ("strongroom", "service", "update")
    lab.shell.run(*update, TWITTER.name, "--secret-add", lent, "--secret-add", _KEPT)
    lab.shell.run(*update, RED.name, "--secret-add", f"source={RED.secret},{_LENT}")
    lab.shell.run(*_listing(lab))
    lab.narrator.observe("twitter's files", seen=_files(lab), expected=_both())


def _plug_in(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    port = lab.layout.story_port(0)
    target = lab.layout.address(MANAGERS[0], 3).split(":")
    cable = [PYTHON, "-I", lab.app("cable.py"), str(port), *target]
    lab.narrator.command(cable, " &")
    process = lab.processes.start(_CABLE, cable)
    lab.wait_until("the cable is plugged in", lambda: bool(process.last_lines()), _CABLE)
    pid = lab.program_pid(TWITTER)
    log = lab.processes[_NODE].log
    lab.processes.stop(_NODE)
    agent = [*lab.agent_command(_NODE), "--manager", f"{HOST}:{port}"]
    lab.narrator.command(agent, " &")
    before = len(log.read_text().splitlines())
    lab.processes.start(_NODE, agent)
    lab.wait_until(f"{_NODE} is back", lambda: _is_back(lab, before), _NODE)
    lab.narrator.observe("twitter's files", seen=_files(lab), expected=_both())
    lab.narrator.observe("twitter is the same process", seen=lab.program_pid(TWITTER) == pid)


def _pull(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    cable = lab.processes[_CABLE]
    lab.narrator.command(["kill", "-STOP", str(cable.popen.pid)])
    pulled_at = time.monotonic()
    lab.processes.send(_CABLE, signal.SIGSTOP)
    _rotate_meanwhile(lab)
    lent = _path(lab)
    lab.wait_until("the lent file is gone", lambda: not lent.exists(), _NODE)
    lab.narrator.say(f"The file went {time.monotonic() - pulled_at:.0f} s after the cable.")
    lab.shell.run(*_listing(lab))
    lab.narrator.observe("twitter's files", seen=_files(lab), expected=[_KEPT])
    lab.wait_until("twitter noticed", lambda: said_by(lab, "twitter")[-1] == _WITHOUT, "twitter")
    lab.narrator.observe("twitter runs on, and makes no calls", seen=True)
    lent_to_red = lab.digest_in_place(RED) == lab.digest_of(lab.value_file(RED.secret))
    claim = "control: red's is lent as well, its node has its managers, and it is there"
    lab.narrator.observe(claim, seen=lent_to_red)


def _rotate_meanwhile(lab: Lab) -> None:
    new, socket = lab.value_file(f"{TWITTER.secret}.2"), str(lab.layout.third_party_socket)
    lab.shell.run(*lab.third_party("issue", socket, str(new)))
    words = ("strongroom", "secret", "rotate", TWITTER.secret, str(new), "--timeout", "2s")
    done = lab.shell.attempt(*words)
    named = done.code == 4 and f"{_NODE} (service twitter)" in done.said
    lab.narrator.observe("a rotation names the node that does not answer (4)", seen=named)
    lab.narrator.say("Now the lease runs out: thirty seconds after the last one was granted.")


def _plug_in_again(lab: Lab) -> None:
    if lab.capabilities.isolation:
        lab.narrator.not_shown(_NOT_SHOWN, lab.capabilities.isolation)
        return
    cable = lab.processes[_CABLE]
    lab.narrator.command(["kill", "-CONT", str(cable.popen.pid)])
    lab.processes.send(_CABLE, signal.SIGCONT)
    lent = _path(lab)
    lab.wait_until("the lent file is back", lent.exists, _NODE)
    wanted = lab.digest_of(lab.value_file(f"{TWITTER.secret}.2"))
    newest = lab.digest_in_place(TWITTER) == wanted
    lab.narrator.observe("it is the version that was made meanwhile", seen=newest)
    lab.narrator.observe("twitter's files", seen=_files(lab), expected=_both())
    lab.wait_until("twitter goes on", lambda: said_by(lab, "twitter")[-1] == _ACCEPTED, "twitter")
    lab.narrator.output("\n".join(said_by(lab, "twitter")))
    told = said_by(lab, "twitter")
    wanted_lines = [_ACCEPTED, _WITHOUT, _ACCEPTED]
    lab.narrator.observe("twitter went on by itself", seen=told == wanted_lines)
    refused = lab.usage()["refused"]
    lab.narrator.observe("calls that were refused", seen=refused, expected=0)


def _is_back(lab: Lab, before: int) -> bool:
    """Return whether the agent, as started last, has carried out what a manager assigned."""
    return any("assignments.applied" in line for line in said_by(lab, _NODE)[before:])


def _path(lab: Lab) -> Path:
    return lab.mount_of(TWITTER) / TWITTER.target


def _files(lab: Lab) -> list[str]:
    return sorted(path.name for path in lab.mount_of(TWITTER).iterdir() if path.name[0] != ".")


def _both() -> list[str]:
    return sorted((TWITTER.target, _KEPT))


def _listing(lab: Lab) -> list[str]:
    return lab.exec_words(TWITTER, "ls", "-l", "/run/secrets/..data/")


LEND = Step(
    "Lend a credential",
    """Twitter gets a second file. The credential is lent for thirty seconds at a time: the agent
    asks a manager again and again, and lets it go when nobody answers. The settings are given:
    without more words a node keeps what it has, so that an outage of managers is no outage of
    services.""",
    _lend,
    _INVOLVED,
)
PLUG_IN = Step(
    "A cable that can be pulled",
    """All is on one machine here, so node2's agent gets a cable of its own: a relay in front of
    the manager. The agent starts again for that; twitter does not notice.""",
    _plug_in,
    _INVOLVED,
)
PULL = Step(
    "Pull the cable",
    """The machine was carried away, or its network is down: the agent cannot tell. Nothing comes
    back any more, not even an error.""",
    _pull,
    _INVOLVED,
)
PLUG_IN_AGAIN = Step(
    "Plug it in again",
    """It was only the cable. Nobody has to do anything on the node.""",
    _plug_in_again,
    _INVOLVED,
)
