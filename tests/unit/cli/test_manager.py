"""`strongroom manager rm` waits until the manager is out; roles are not exchanged."""

import pytest

from cluster.cli.context_files import Context
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run

REMOVING = {"id": "m3-id", "name": "m3", "state": "removing", "managers_left": 3}
STAYS = {"id": "m1-id", "name": "m1", "api_address": "127.0.0.1:1"}


def test_removal_returns_once_the_manager_is_out(
    run: Run, manager: Canned, context: Context
) -> None:
    manager.on("DELETE /v1/managers/m3", (200, REMOVING))
    lists = [
        {"managers": [STAYS, {**STAYS, "id": "m3-id", "state": "removing"}]},
        {"managers": [STAYS]},
    ]
    manager.on("GET /v1/managers", *((200, one) for one in lists))
    done = run("manager", "rm", "m3")
    assert (done.code, done.out, done.err) == (0, "manager m3 removed\n", "")
    assert [asked.path for asked in manager.asked].count("/v1/managers") == 2


def test_few_that_are_left_are_a_warning(run: Run, manager: Canned, context: Context) -> None:
    manager.on("DELETE /v1/managers/m3", (200, {**REMOVING, "managers_left": 2}))
    manager.on("GET /v1/managers", (200, {"managers": [STAYS]}))
    done = run("manager", "rm", "m3")
    assert done.code == 0
    assert "tolerate no failure" in done.err


def test_removal_that_waits_goes_on(run: Run, manager: Canned, context: Context) -> None:
    manager.on("DELETE /v1/managers/m3", (200, REMOVING))
    still = {"managers": [{**STAYS, "id": "m3-id", "state": "removing"}]}
    manager.on("GET /v1/managers", (200, still))
    done = run("manager", "rm", "m3", "--timeout", "0s")
    assert done.code == 4
    assert "the removal goes on" in done.err
    detached = run("manager", "rm", "m3", "--detach")
    assert (detached.code, detached.out) == (0, "manager m3 is being removed\n")


@pytest.mark.parametrize(("verb", "next_step"), [("promote", "token create"), ("demote", "rm")])
def test_roles_are_not_exchanged(run: Run, verb: str, next_step: str) -> None:
    done = run("manager", verb, "n1")
    assert done.code == 1
    assert "neither becomes the other" in done.err
    assert next_step in done.err
