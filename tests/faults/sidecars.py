"""The processes that look on during a run: the watcher of the engines, the probe of deliveries, and
the reader of the store at the end."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.checker import Watched
from tests.faults.cluster import FaultCluster, FaultManager
from tests.support.running import SCRIPTS

PROBE = "probe"


@dataclass(slots=True)
class Sidecars:
    """Processes beside the cluster; each writes to a file of its own."""

    cluster: FaultCluster
    seed: int
    _children: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def watch_log(self) -> Path:
        """What the watches brought."""
        return self.cluster.base / "watch.jsonl"

    @property
    def probe_log(self) -> Path:
        """What the probe was sent."""
        return self.cluster.base / "probe.jsonl"

    def watch(self) -> None:
        """Start watching every manager's engine."""
        words = [f"{one.name}={one.engine_socket}" for one in self.cluster.fault_managers()]
        self._start("tests.faults.watcher", [str(self.watch_log), *words])

    def probe(self) -> None:
        """Join the probe and let it visit managers."""
        host = self.cluster.network.hosts[PROBE]
        data = self.cluster.base / PROBE
        token = self.cluster.ok("POST", "/v1/tokens", {"role": "worker"})["token"]
        join = [str(SCRIPTS / "strongroom-agent"), "join", "--name", PROBE, "--data-dir", str(data)]
        for manager in self.cluster.managers:
            join += ["--manager", manager.join]
        subprocess.run(host.command(join), input=token.encode(), capture_output=True, check=True)
        addresses = [manager.api for manager in self.cluster.managers]
        words = [str(data), str(self.probe_log), str(self.seed), *addresses]
        self._start("tests.faults.probe", words, host.command)

    def _start(self, module: str, words: Sequence[str], wrap: Any = list) -> None:  # noqa: ANN401  # a command's wrapper
        with (self.cluster.base / f"{module}.log").open("ab") as log:
            argv = ["setpriv", "--pdeathsig", "KILL", *wrap([sys.executable, "-m", module, *words])]
            self._children.append(
                subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def stop(self) -> list[str]:
        """End them; return which had ended by themselves."""
        broken = []
        for child in self._children:
            if child.poll() is not None:
                broken.append(f"a sidecar broke: {child.args!r}")
            child.kill()
            child.wait()
        for log in self.cluster.base.glob("tests.faults.*.log"):
            if broken:
                broken.append(log.read_text()[-2000:])
        self._children.clear()
        return broken

    def watched(self) -> list[Watched]:
        """Return what each watch brought, a piece without a break each."""
        found: dict[tuple[str, int], Watched] = {}
        for line in self.watch_log.read_text().splitlines():
            _, name, segment, revision, changes = json.loads(line)
            watch = found.setdefault((name, segment), Watched(f"{name}'s watch {segment}"))
            watch.batches.append((revision, tuple((key, digest) for key, digest in changes)))
        return list(found.values())

    def probed(self) -> list[dict[str, Any]]:
        """Return the probe's messages."""
        return [json.loads(line) for line in self.probe_log.read_text().splitlines()]


def read_store(cluster: FaultCluster, manager: FaultManager, at: int = 0) -> dict[str, Any]:
    """Return what a manager's store holds; its replica at revision `at`, or the present one."""
    seal_file = manager.base / "disk/data/seal"
    argv = [sys.executable, "-m", "tests.faults.store_reader"]
    done = subprocess.run(
        [*argv, str(manager.engine_socket), str(seal_file), str(at)],
        input=cluster.unlock_key.encode(),
        capture_output=True,
        check=False,
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    )
    said = done.stderr.decode().strip().splitlines()[-1:]
    assert done.returncode == 0, f"{manager.name}'s store: {' '.join(said)}"
    told: dict[str, Any] = json.loads(done.stdout)
    return told
