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

from tests.faults.checker import Watched, unbroken
from tests.faults.cluster import FaultCluster, FaultManager
from tests.faults.entitlements import Event
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

    @property
    def sealed_log(self) -> Path:
        """The same once, with the values as they are stored."""
        return self.cluster.base / "sealed.log"

    def watch(self) -> None:
        """Start watching every manager's engine."""
        words = [f"{one.name}={one.engine_socket}" for one in self.cluster.fault_managers()]
        self._start("tests.faults.watcher", [str(self.watch_log), str(self.sealed_log), *words])

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
            watch = found.setdefault(
                (name, segment), Watched(f"{name}'s watch {segment}", from_start=segment == 0)
            )
            watch.batches.append((revision, tuple((key, digest) for key, digest in changes)))
        return list(found.values())

    def probed(self) -> list[dict[str, Any]]:
        """Return the probe's messages."""
        return [json.loads(line) for line in self.probe_log.read_text().splitlines()]

    def chronicle(self) -> list[Event]:
        """Return how the records changed, from the founding on, as far as the watches saw it
        without a break."""
        manager = self.cluster.fault_managers()[0]
        output = self.cluster.base / "chronicle.jsonl"
        words = [str(manager.engine_socket), str(manager.base / "disk/data/seal")]
        _run("tests.faults.chronicle", [*words, str(self.sealed_log), str(output)], self.cluster)
        events: list[Event] = []
        last = unbroken(self.watched())
        with output.open() as lines:
            for revision, moment, changes in map(json.loads, lines):
                if revision <= last:
                    told = [(kind, record_id, body) for kind, record_id, body in changes]
                    events.append((revision, moment, told))
        return events


def _run(module: str, words: Sequence[str], cluster: FaultCluster) -> bytes:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        input=cluster.unlock_key.encode(),
        capture_output=True,
        check=False,
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    )
    said = done.stderr.decode().strip().splitlines()[-1:]
    assert done.returncode == 0, f"{module}: {' '.join(said)}"
    return done.stdout


def read_store(cluster: FaultCluster, manager: FaultManager, at: int = 0) -> dict[str, Any]:
    """Return what a manager's store holds; its replica at revision `at`, or the present one."""
    words = [str(manager.engine_socket), str(manager.base / "disk/data/seal"), str(at)]
    told: dict[str, Any] = json.loads(_run("tests.faults.store_reader", words, cluster))
    return told
