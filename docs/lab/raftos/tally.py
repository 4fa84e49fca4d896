"""A plugin of pytest that counts what came of the conformance suite, by kind of engine."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from docs.lab.raftos.engine import NotExpressible

PASSED, FAILED, NOT_EXPRESSIBLE = "passed", "failed", "not expressible"
KINDS = {"TestRaftos": "raftos", "TestEtcd": "etcd"}
"""The suite's classes."""


@dataclass(frozen=True, slots=True)
class Places:
    """The programs, and where they may write."""

    python: Path
    etcd: Path
    directory: Path


@dataclass(eq=False)
class Tally:
    """A plugin of pytest that counts."""

    places: Places
    results: dict[tuple[str, str], str] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: "pytest.CallInfo[None]") -> None:
        """Take down what a test or the making of its engine came to."""
        kind = KINDS[item.nodeid.split("::")[1]]
        key = (kind, item.name)
        if call.excinfo is None:
            self.results.setdefault(key, PASSED)
            return
        missing = _missing(call.excinfo.value)
        if missing:
            self.missing[missing] += 1
        self.results[key] = NOT_EXPRESSIBLE if missing else FAILED

    def count(self, kind: str, result: str) -> int:
        """Return how many tests of a kind came to a result."""
        return sum(key[0] == kind and came_to == result for key, came_to in self.results.items())


def _missing(error: BaseException) -> str:
    """Return what an adapter named as missing, in a group of errors as well."""
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_missing, error.exceptions)), "")
    return str(error) if isinstance(error, NotExpressible) else ""
