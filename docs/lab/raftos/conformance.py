"""The suite that every engine of the product passes, for raftos and for etcd: what came of it.

    conformance --python PYTHON --etcd ETCD --directory DIR [--only EXPRESSION]

Counts what passed, what failed, and what raftos has no means for, by what is missing.
"""

import argparse
import sys
from pathlib import Path

import pytest

from docs.lab.raftos.tally import FAILED, KINDS, NOT_EXPRESSIBLE, PASSED, Places, Tally

_OPTIONS = (
    *("-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:faulthandler"),
    *("-o", "addopts=--import-mode=importlib --strict-markers"),
    *("-o", "asyncio_default_fixture_loop_scope=session"),
    *("-o", "asyncio_default_test_loop_scope=session"),
)


def report(tally: Tally) -> str:
    """Return what came of the suite, for a person."""
    lines = [f"{'':<16} {'raftos':<7} etcd"]
    for result in (PASSED, FAILED, NOT_EXPRESSIBLE):
        counts = [tally.count(kind, result) for kind in KINDS.values()]
        lines.append(f"{result:<16} {counts[0]:<7} {counts[1]}")
    told = ", ".join(f"{what} ({count})" for what, count in sorted(tally.missing.items()))
    lines.append(f"raftos has nothing for: {told}")
    lines += [
        f"{kind} fails: {name}"
        for (kind, name), came_to in sorted(tally.results.items())
        if came_to == FAILED
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the suite with both, and print what came of it."""
    parser = argparse.ArgumentParser(prog="conformance")
    for name in ("--python", "--etcd", "--directory"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--only", default="", metavar="EXPRESSION", help="as pytest's -k")
    given = parser.parse_args()
    tally = Tally(Places(given.python.absolute(), given.etcd.resolve(), given.directory.resolve()))
    suite = Path(__file__).with_name("suite.py")
    code = pytest.main([str(suite), *_OPTIONS, "-k", given.only], plugins=[tally])
    sys.stdout.write(report(tally))
    return 0 if code in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED} else 1


if __name__ == "__main__":
    sys.exit(main())
