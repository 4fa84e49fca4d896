"""One short run of faults with a fixed seed, as CI has it; `make faults` runs longer ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.etcd_cluster import need_etcd

MINUTES = os.environ.get("FAULT_MINUTES", "3")
SEED = os.environ.get("FAULT_SEED", "11")


@pytest.mark.slow
@pytest.mark.needs_root
def test_everything_holds_under_faults(tmp_path: Path) -> None:
    """Linearizable histories, ordered watches, receipts before deliveries, converged agents, whole
    chains, through every kind of fault that the seed draws."""
    need_etcd()
    if os.geteuid() != 0:
        pytest.skip("namespaces and disks need root")
    argv = [sys.executable, "-m", "tests.faults", "--minutes", MINUTES, "--seed", SEED]
    done = subprocess.run(
        [*argv, "--output", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-20_000:]
    counts = json.loads((tmp_path / "latest.json").read_text())
    assert sum(counts["faults"].values()) > 5
    assert counts["outcomes"]["ok"] > 500
    assert counts["probe_deliveries"] > 20
    assert counts["revisions_judged"] > 100
