"""Any container may be killed: what goes on without it, and what its return brings."""

import pytest

from docs.lab.compose.driver import ContainerLab
from docs.lab.compose.story import wait_for_secret
from docs.lab.stage import BLUE, RED, SERVICES, TWITTER, Service
from docs.lab.steps import unlocking
from docs.lab.steps.placing import make_value


def start(lab: ContainerLab, name: str) -> None:
    lab.processes.start(name, ())
    lab.wait_until(f"{name} runs", lambda: name in lab.processes)


def rotate(lab: ContainerLab, service: Service, label: str, *more: str) -> str:
    """Change a secret; return the digest of its new value."""
    new = f"{service.secret}.{label}"
    make_value(lab, new)
    lab.shell.run("strongroom", "secret", "rotate", service.secret, str(lab.value_file(new)), *more)
    return lab.digest_of(lab.value_file(new))


def give_back_key(lab: ContainerLab, manager: str) -> None:
    """Unlock: after the story the key is with its owner alone."""
    lab.shell.run(*unlocking.unlock_words(lab, manager), "--key-file", str(lab.layout.unlock_key))


@pytest.mark.parametrize("manager", ["m1", "m2", "m3"])
def test_killed_manager_is_not_missed_and_comes_back_locked(
    lab: ContainerLab, manager: str
) -> None:
    lab.processes.kill(manager)
    digest = rotate(lab, RED, f"without-{manager}")
    assert lab.digest_in_place(RED) == digest
    start(lab, manager)
    lab.wait_for_admin(manager)
    words = ("strongroom", "status", "--admin-socket", str(lab.layout.admin_socket(manager)), "-q")
    # No volume holds the key any more: the engine was down since it was made.
    assert lab.shell.look(*words).stdout.strip() == "locked"
    give_back_key(lab, manager)
    unlocking.show_all_ready(lab)


def test_services_read_on_without_their_agent_and_follow_when_it_returns(lab: ContainerLab) -> None:
    before = lab.digest_in_place(RED)
    lab.processes.kill(RED.node)
    assert lab.digest_in_place(RED) == before != ""
    digest = rotate(lab, RED, "without-agent", "--detach")
    start(lab, RED.node)
    lab.wait_until("red has the new version", lambda: lab.digest_in_place(RED) == digest)


def test_agent_and_service_that_both_died_find_their_secret_again(lab: ContainerLab) -> None:
    before = lab.digest_in_place(TWITTER)
    for name in (TWITTER.name, TWITTER.node):
        lab.processes.kill(name)
    # Nobody holds the volume: it is gone from memory, and its agent fills a new one.
    for name in (TWITTER.node, TWITTER.name):
        start(lab, name)
    wait_for_secret(lab, TWITTER)
    assert lab.digest_in_place(TWITTER) == before


@pytest.mark.parametrize("service", [RED, BLUE], ids=lambda service: service.name)
def test_killed_service_reads_its_secret_when_it_returns(
    lab: ContainerLab, service: Service
) -> None:
    before = lab.digest_in_place(service)
    lab.processes.kill(service.name)
    start(lab, service.name)
    assert lab.digest_in_place(service) == before != ""


def test_killed_operator_is_operator_again(lab: ContainerLab) -> None:
    lab.processes.kill("operator")
    start(lab, "operator")
    assert len(lab.managers_in_state("ready")) == 3


def test_third_party_that_died_has_forgotten_its_credentials(lab: ContainerLab) -> None:
    """Its ledger is in memory, so it refuses what it issued until a new one is rotated in."""
    lab.processes.kill("third-party")
    start(lab, "third-party")
    usage = lab.third_party("usage", "")
    lab.wait_until("the third party answers", lambda: lab.shell.look(*usage).code == 0)
    # It ends when it cannot connect, as a program may that somebody else starts again.
    start(lab, TWITTER.name)
    lab.wait_until("it refuses", lambda: lab.usage()["refused"] > 0)
    new = lab.value_file("twitter-credential.after")
    lab.shell.run(*lab.third_party("issue", "", str(new)))
    lab.shell.run("strongroom", "secret", "rotate", TWITTER.secret, str(new))
    lab.wait_until("it accepts", lambda: sum(lab.usage()["accepted"]) > 0)


def test_bootstrap_started_again_changes_nothing(lab: ContainerLab) -> None:
    cluster, managers = lab.status()["cluster_id"], lab.status()["managers"]
    lab.engine.run("docker", "start", "--attach", lab.engine.container("bootstrap"))
    assert lab.engine.inspect("bootstrap")["State"]["ExitCode"] == 0
    assert lab.status()["cluster_id"] == cluster
    assert [one["id"] for one in lab.status()["managers"]] == [one["id"] for one in managers]
    assert [lab.digest_in_place(service) != "" for service in SERVICES] == [True, True, True]
