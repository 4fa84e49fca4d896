"""`service create|update --certificate`: said, kept and taken away."""

import pytest

from cluster.cli.context_files import Context
from tests.unit.cli.canned import Canned
from tests.unit.cli.conftest import Run
from tests.unit.cli.test_service import SERVICE, SPEC, answering


def test_create_asks_for_a_certificate(run: Run, manager: Canned, context: Context) -> None:
    answering(manager)
    assert run("service", "create", "web", "--certificate").code == 0
    assert manager.asked[0].json == {"name": "web", "certificate": True}


@pytest.mark.parametrize(
    ("flags", "before", "after"),
    [
        ((), True, True),
        (("--certificate",), False, True),
        (("--no-certificate",), True, False),
    ],
)
def test_update_keeps_what_no_flag_names(
    run: Run,
    manager: Canned,
    context: Context,
    flags: tuple[str, ...],
    before: bool,
    after: bool,
) -> None:
    answering(manager)
    shown = {**SERVICE, "spec": {**SPEC, "certificate": before}}
    manager.on("GET /v1/services/web", (200, shown))
    assert run("service", "update", "web", "--detach", "--uid", "7", *flags).code == 0
    assert manager.asked[-1].json["spec"]["certificate"] is after
