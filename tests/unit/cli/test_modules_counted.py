"""How many modules the commands load: a count that no machine changes, where times do.

The bounds are what it takes now; those of the standard library have room for another Python. A
change that needs more must say why here.
"""

import json
import subprocess
import sys
from collections import Counter
from typing import Final

import pytest

from cluster.cli.context_files import Context
from tests.unit.cli.canned import Canned

PROBE: Final = """
import sys
before = set(sys.modules)
from {package}.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
found = set(sys.modules) - before
import json
print("\\n" + json.dumps(sorted(found)))
"""
OURS: Final = ("agent", "cluster")
ROOM: Final = 1.25


def loaded(package: str, *words: str) -> Counter[str]:
    """Return how many modules a command loads in a fresh interpreter, by whose they are."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(package=package), *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    tops = (name.partition(".")[0] for name in found)
    return Counter(
        "ours" if top in OURS else "standard" if top in sys.stdlib_module_names else "others"
        for top in tops
    )


def keeps_to(found: Counter[str], *, ours: int, others: int, standard: int) -> None:
    """Fail where a command loads more than it did."""
    assert found["ours"] <= ours
    assert found["others"] <= others
    assert found["standard"] <= standard * ROOM


def test_a_list_of_secrets(manager: Canned, context: Context) -> None:
    manager.on("GET /v1/secrets", (200, {"secrets": []}))
    keeps_to(loaded("cluster", "secret", "ls", "-q"), ours=29, others=9, standard=62)


@pytest.mark.parametrize(
    ("package", "ours", "standard"),
    [("cluster", 5, 43), ("agent", 8, 43)],
    ids=["operator", "agent"],
)
def test_help(package: str, ours: int, standard: int) -> None:
    keeps_to(loaded(package, "--help"), ours=ours, others=0, standard=standard)


def test_a_get_that_nobody_answers() -> None:
    found = loaded("agent", "get", "db", "--socket", "/nothing")
    keeps_to(found, ours=6, others=0, standard=13)


def test_what_is_counted_is_there() -> None:
    """The control: the probe sees what a command with everything loads."""
    found = loaded("cluster", "manager", "run", "--config", "/nothing")
    assert found["others"] > 20
    assert found["ours"] > 50
