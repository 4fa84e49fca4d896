"""The suite's own rules hold: skips fail in CI, and a seed replays a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = {
    "call": "import pytest\ndef test_it() -> None:\n    pytest.skip('why')\n",
    "mark": "import pytest\n@pytest.mark.skip(reason='why')\ndef test_it() -> None: ...\n",
    "module": "import pytest\npytest.skip('why', allow_module_level=True)\n",
}
EXPECTED_FAILURE = (
    "import pytest\n@pytest.mark.xfail(reason='why')\ndef test_it() -> None:\n    assert False\n"
)
DRAW = (
    "def test_it(entropy) -> None:\n"
    "    print('drew', entropy.token(8).hex(), entropy.uniform(0, 1))\n    assert False\n"
)


def run(root: Path, directory: Path, source: str, **environment: str) -> tuple[int, str]:
    """Run one test file under our conftest; return pytest's exit code and output."""
    test = directory / "test_it.py"
    test.write_text(source)
    inherited = {k: v for k, v in os.environ.items() if k not in {"CI", "SEED"}}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", test],
        cwd=directory,
        env=inherited | {"PYTHONPATH": str(root)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout


@pytest.mark.parametrize("kind", SKIPS)
def test_skip_passes_for_a_person_and_fails_in_ci(root: Path, tmp_path: Path, kind: str) -> None:
    code, _ = run(root, tmp_path, SKIPS[kind])
    assert code in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    code, output = run(root, tmp_path, SKIPS[kind], CI="true")
    assert code in {pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED}
    assert "skips fail" in output


def test_expected_failure_is_no_skip(root: Path, tmp_path: Path) -> None:
    code, output = run(root, tmp_path, EXPECTED_FAILURE, CI="true")
    assert code == pytest.ExitCode.OK, output


def test_seed_replays_the_draws(root: Path, tmp_path: Path) -> None:
    first, again, other = (
        [line for line in run(root, tmp_path, DRAW, SEED=seed)[1].splitlines() if "drew" in line]
        for seed in ("7", "7", "8")
    )
    assert first == again != other


def test_failure_names_its_seed(root: Path, tmp_path: Path) -> None:
    assert "replay with SEED=7" in run(root, tmp_path, DRAW, SEED="7")[1]
