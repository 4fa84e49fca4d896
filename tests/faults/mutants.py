"""Bugs planted into a copy of the product, of the kinds that the trusted systems had: the harness
must find each.

`python -m tests.faults.mutants [NAME ...]` runs each against the faults that should expose it and
exits 1 if one survives. The copy stands first on the path; the checkout is never touched.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = ("cluster", "agent", "tests/faults", "tests/support")
SEEDS: Final = (1, 2)
"""A planted bug that no seed finds counts as missed."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted bug: what it stands for, the edits, and the faults that should expose it."""

    name: str
    stands_for: str
    edits: tuple[tuple[str, str, str], ...]
    """File, text, replacement."""
    faults: str
    minutes: float = 0.75


MUTANTS: Final = (
    Mutant(
        "issue-without-barrier",
        "a stale read after a partition or pause (etcd 0.4, Consul)",
        (
            (
                "cluster/dispatcher/issue.py",
                "            await self.store.barrier(since=begun)\n",
                "",
            ),
        ),
        "leader-alone,partition-one-way,pause-manager",
    ),
    Mutant(
        "delivery-without-barrier",
        "a cut-off manager serves agents from an old state",
        (
            (
                "cluster/dispatcher/sessions.py",
                "number = await self.parts.store.barrier(since=begun)",
                "number = self.parts.store.view.revision",
            ),
        ),
        "leader-alone,partition-one-way,pause-engine",
        1.5,
    ),
    Mutant(
        "receipt-after-send",
        "the record comes after the secret left",
        (
            (
                "cluster/dispatcher/sessions.py",
                (
                    "            await self.parts.receipts.ensure(self.node_id, assignments)\n"
                    "            number = await self.parts.store.barrier(since=begun)\n"
                    "            if await self._send_decided(number):\n"
                    "                return\n"
                ),
                (
                    "            number = await self.parts.store.barrier(since=begun)\n"
                    "            await self._send_decided(number)\n"
                    "            await self.parts.receipts.ensure(self.node_id, assignments)\n"
                    "            return\n"
                ),
            ),
            (
                "cluster/dispatcher/sessions.py",
                (
                    "        if self.parts.receipts.missing(self.node_id, assignments):\n"
                    "            return False\n"
                ),
                "",
            ),
        ),
        "kill-one,pause-manager",
    ),
    Mutant(
        "skip-compare",
        "a write does not compare what it was decided from: lost updates",
        (
            (
                "cluster/store/preparation.py",
                "        self.compares.append(Unchanged(key, stored.mod_revision))\n",
                "",
            ),
        ),
        "kill-leader,pause-manager",
    ),
    Mutant(
        "forget-request-id",
        "a resent request is carried out again",
        (
            (
                "cluster/control/requests.py",
                "stored = view.requests.get(self._context.request_id)\n",
                "stored = None if view.revision else view.requests.get(self._context.request_id)\n",
            ),
            ("cluster/control/requests.py", "*still, Create(record))", "*still)"),
        ),
        "kill-leader,kill-one,pause-engine,leader-alone",
    ),
    Mutant(
        "ack-before-commit",
        "a write is acknowledged before a quorum holds it",
        (
            (
                "cluster/store/sealed_store.py",
                "            revision = await self._batcher.submit(pending)\n",
                (
                    "            asyncio.ensure_future(self._batcher.submit(pending))\n"
                    "            revision = self.view.revision\n"
                ),
            ),
        ),
        "kill-leader,leader-alone",
    ),
    Mutant(
        "unknown-is-success",
        "an unknown outcome is reported as success (raftos, pysyncobj)",
        (
            (
                "cluster/store/batcher.py",
                "                await self._settle(batch, record, request_id)\n",
                "                self._committed(batch, record, 0)\n",
            ),
        ),
        "leader-alone,kill-engine,pause-engine",
    ),
    Mutant(
        "cancel-moves-chain",
        "the audit chain counts a link that was never written",
        (
            (
                "cluster/store/batcher.py",
                "                    case Cancelled():\n",
                (
                    "                    case Cancelled():\n"
                    "                        self.head = self.head.after(record)\n"
                ),
            ),
        ),
        "leader-alone,kill-engine,pause-engine,partition-one-way",
        1.5,
    ),
    Mutant(
        "lose-watch-revision",
        "a watch that reconnects misses a change",
        (
            (
                "cluster/engine/etcd_watch.py",
                '            log.debug("engine.watch_reconnects"',
                '            following += 2\n            log.debug("engine.watch_reconnects"',
            ),
        ),
        "kill-engine,kill-one",
    ),
    Mutant(
        "repeat-watch-revision",
        "a watch that reconnects goes back in time (etcd after a partition)",
        (
            (
                "cluster/engine/etcd_watch.py",
                "                    if batch.revision >= following:\n",
                "                    if batch.revision:\n",
            ),
        ),
        "kill-engine,kill-one",
    ),
    Mutant(
        "stale-reads",
        "a manager answers from a view behind what the caller has seen",
        (
            (
                "cluster/api/edge.py",
                "        if text is not None:\n            await",
                "        if not text and text is not None:\n            await",
            ),
        ),
        "leader-alone,partition-one-way,pause-engine",
    ),
    Mutant(
        "no-fsync",
        "acknowledged writes are in no disk (NATS 2.12, pysyncobj)",
        (
            (
                "cluster/engine/etcd_member.py",
                '        "pre-vote": "true",\n',
                '        "pre-vote": "true",\n        "unsafe-no-fsync": "true",\n',
            ),
            ("tests/support/etcd_cluster.py", "return found[0]", "return found[-1]"),
        ),
        "power-loss-all",
    ),
    Mutant(
        "keep-removed-service",
        "an agent keeps the files of a service that was removed",
        (
            (
                "agent/assignments.py",
                "        if new is None:\n            removals.append(Remove(old))\n",
                "        if new is None:\n            continue\n",
            ),
        ),
        "kill-agent,kill-one",
    ),
    Mutant(
        "publish-with-a-gap",
        "a rotation takes the old file away before the new one is there",
        (
            (
                "agent/generations.py",
                "        try:\n            self._build(",
                "        self.clear()\n        try:\n            self._build(",
            ),
        ),
        "kill-agent,pause-agent",
    ),
    Mutant(
        "write-in-place",
        "a rotation writes into the published file: readers see half of it",
        (
            (
                "agent/generations.py",
                (
                    '        name = f"..{max((_number(name) for name in self._all()), '
                    'default=0) + 1}"\n'
                ),
                (
                    '        name = self.current() or "..1"\n'
                    "        if self.current():\n"
                    "            self._drop(name)\n"
                ),
            ),
        ),
        "kill-agent,pause-agent",
    ),
    Mutant(
        "release-to-all",
        "a task that a rollout has not released gets the new version",
        (
            (
                "cluster/dispatcher/assignments.py",
                "        wanted = records.held_version(task, reference.secret_id)\n",
                "        wanted = None\n",
            ),
        ),
        "kill-one,pause-agent",
    ),
    Mutant(
        "roll-nothing-back",
        "a rollout that goes back leaves the failed version primary",
        (
            (
                "cluster/control/rollout_rollback.py",
                "return [Replace(stored, after), *_version_back(view, rollout, now_s)]",
                "return [Replace(stored, after)]",
            ),
        ),
        "kill-one,pause-agent",
    ),
    Mutant(
        "unhealthy-is-good",
        "a rollout does not ask the service's check",
        (
            (
                "cluster/control/rollout_targets.py",
                "in_place and _health(task, status, facts) is False:",
                "in_place and False:",
            ),
        ),
        "kill-one,pause-agent",
    ),
    Mutant(
        "issue-retired",
        "a retired version is issued as the version before",
        (
            (
                "cluster/dispatcher/assignments.py",
                (
                    "    return before.number if before is not None and before.state is "
                    "VersionState.ACTIVE else None\n"
                ),
                "    return None if before is None or before.destroyed else before.number\n",
            ),
        ),
        "kill-one,pause-agent",
    ),
    Mutant(
        "push-unprepared",
        "nodes get a credential before the third party accepts it",
        (
            (
                "cluster/control/rotation_moves.py",
                "step=RotationStep.PREPARE if rotation.hook else RotationStep.PUSH,",
                "step=RotationStep.PUSH,",
            ),
        ),
        "kill-one,pause-agent",
    ),
    Mutant(
        "evict-without-marks",
        "what an evicted node held is not flagged",
        (
            (
                "cluster/control/evict_rotate.py",
                "            await self._mark(context.principal, node_id, held)\n",
                "",
            ),
        ),
        "evict-agent",
    ),
    Mutant(
        "key-of-another",
        "a certificate is renewed without its key: half of a set",
        (
            (
                "agent/certificates.py",
                "contents = (_pem(message.chain), key_pem, _pem(message.anchors))",
                "contents = (_pem(message.chain), key_to_pem(new_key()), _pem(message.anchors))",
            ),
        ),
        "kill-one,pause-agent",
    ),
    Mutant(
        "act-without-the-duty",
        "a holder that lost its lease goes on writing (a lock without fencing)",
        (
            (
                "cluster/duties.py",
                "    return lambda write: replace(write, guards=(*write.guards, guard))",
                "    return lambda write: replace(write, guards=(*write.guards, guard)[:0])",
            ),
        ),
        "lease-lost",
        1.5,
    ),
    Mutant(
        "start-without-log",
        "a member that forgot everything takes part under its old name (etcd on another disk)",
        (("cluster/engine/etcd_member.py", "            await self._until_log_is_there()\n", ""),),
        "disk-gone",
        1.0,
    ),
    Mutant(
        "keep-past-the-lease",
        "a dead-man's switch that does not switch",
        (
            (
                "agent/lease.py",
                "        if not file.wipe_on_lease_loss:\n",
                "        if not file.wipe_on_lease_loss or now_s:\n",
            ),
        ),
        "node-lease-lost",
    ),
    Mutant(
        "where-forgets",
        "operators are not told where a version was, once it is gone from there",
        (
            (
                "cluster/control/exposure.py",
                "            if version is None or one.record.version == version\n",
                "            if version is None and one.record.dropped_at is None\n",
            ),
        ),
        "kill-one,pause-agent",
    ),
)


def plant(mutant: Mutant, place: Path) -> None:
    """Copy the product to `place` and edit it."""
    for name in COPIED:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/__init__.py", place / "tests/__init__.py")
    (place / ".tools").symlink_to(ROOT / ".tools")
    for file, old, new in mutant.edits:
        text = (place / file).read_text()
        assert text.count(old) == 1, f"{mutant.name}: {file} has changed; plant the bug anew"
        (place / file).write_text(text.replace(old, new))


def found(mutant: Mutant) -> str:
    """Return what the harness says of a mutant; empty if it finds nothing."""
    with tempfile.TemporaryDirectory(prefix="srm-") as directory:
        place = Path(directory)
        plant(mutant, place)
        for seed in SEEDS:
            argv = [sys.executable, "-m", "tests.faults", "--seed", str(seed)]
            argv += ["--minutes", str(mutant.minutes), "--only", mutant.faults]
            done = subprocess.run(
                argv,
                cwd=place,
                env={**os.environ, "PYTHONPATH": directory},
                capture_output=True,
                text=True,
                check=False,
            )
            said = [line for line in done.stderr.splitlines() if line.startswith("VIOLATION")]
            if said:
                return f"seed {seed}: {len(said)} violations; {said[0][:160]}"
            if done.returncode != 0:
                sys.stderr.write(f"{mutant.name}: the run broke\n{done.stderr[-2000:]}\n")
    return ""


def main(names: Sequence[str]) -> int:
    """Run every mutant, or those named; return the exit code."""
    chosen = [one for one in MUTANTS if not names or one.name in names]
    results: dict[str, str] = {}
    for mutant in chosen:
        results[mutant.name] = found(mutant)
        verdict = results[mutant.name] or "MISSED"
        sys.stderr.write(f"{mutant.name}: {verdict}\n")
        sys.stderr.flush()
    output = ROOT / "build/faults"
    output.mkdir(parents=True, exist_ok=True)
    (output / "mutants.json").write_text(json.dumps(results, indent=2) + "\n")
    missed = [name for name, verdict in results.items() if not verdict]
    sys.stderr.write(f"{len(chosen) - len(missed)} of {len(chosen)} found\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
