"""A small run with a fixed seed, as CI has it; `make scale` runs larger ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SIZE = "--agents 50 --secrets 500 --services 20 --minutes 0.3 --seed 11 --behind 90"


@pytest.mark.slow
@pytest.mark.needs_root
def test_files_are_what_the_records_want_after_churn(tmp_path: Path) -> None:
    """Rotations, updates, agents that leave and return and drains, at a size for CI."""
    if os.geteuid() != 0:
        pytest.skip("a fleet mounts a tmpfs")
    argv = [sys.executable, "-m", "tests.scale", *SIZE.split(), "--output", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-20_000:]
    told = json.loads((tmp_path / "latest.json").read_text())
    assert told["files_judged"] >= 50 + 20 * 3 - 4  # a drained node lacks its own
    assert sum(told["changes"].values()) > 0
    assert "--seed 11" in told["replay"]
