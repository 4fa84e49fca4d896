"""What every suite shares: a replayable seed, Hypothesis profiles, and skips that fail in CI."""

import os
import random
from collections.abc import Generator

import hypothesis
import pytest

from tests.support.clock import ManualClock
from tests.support.entropy import SeededEntropy

SKIPS_ALLOWED_IN_CI: tuple[tuple[str, str], ...] = (
    # (start of the test's node id, why it may be skipped where CI is set)
    ("tests/architecture/test_shell_support.py", "zsh and groff are not everywhere; bash is"),
    ("tests/architecture/test_systemd_units.py", "containers and minimal roots have no systemd"),
    ("tests/e2e/test_systemd.py", "containers and minimal roots have no systemd"),
)

SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(2**32))

# No test depends on how fast the machine is.
hypothesis.settings.register_profile(
    "default", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "ci", hypothesis.settings.get_profile("default"), print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_configure(config: pytest.Config) -> None:
    """Give Hypothesis the run's seed, unless one was asked for by option."""
    if config.getoption("hypothesis_seed", default=None) is None:
        config.option.hypothesis_seed = SEED


def pytest_report_header() -> str:
    """Print how to replay this run."""
    return f"SEED={SEED} (set it in the environment to replay)"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Repeat the seed under the failures, where a reader of a long log looks."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"replay with SEED={SEED}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a skipped test where CI is set."""
    report = yield
    _fail_if_skipped_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a module that skips itself where CI is set."""
    report = yield
    _fail_if_skipped_in_ci(report)
    return report


def _fail_if_skipped_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure: in CI everything a test needs is at hand, or the set-up broke."""
    if not (report.skipped and os.environ.get("CI")) or hasattr(report, "wasxfail"):
        return
    if any(report.nodeid.startswith(start) for start, _reason in SKIPS_ALLOWED_IN_CI):
        return
    report.outcome = "failed"
    report.longrepr = f"skipped in CI, where skips fail: {report.longrepr}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root for anyone else."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("needs_root") is not None:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture
def seed() -> int:
    """The run's seed."""
    return SEED


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that stands still until it is moved."""
    return ManualClock()


@pytest.fixture
def entropy(seed: int) -> SeededEntropy:
    """Return draws that SEED replays."""
    return SeededEntropy(seed)
