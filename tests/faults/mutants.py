"""Bugs planted into a copy of the product, of the kinds that the trusted systems had: the harness
must find each.

`python -m tests.faults.mutants [NAME ...]` runs each against the faults that should expose it, and
the product without it beside, and exits 1 if one survives or a control does not pass. The copy
stands first on the path; the checkout is never touched. `--record build/faults/mutants.json` writes
what was found into docs/reference/reliability.md; without a file it only writes the table anew.
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

from tests.faults.mutant_runs import (
    WITH_CHANGES,
    Control,
    Result,
    Run,
    RunOptions,
    Trials,
    record,
    write_page,
)

ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = ("cluster", "agent", "tests/faults", "tests/support", "tests/bench")
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
                    "            async with self._settling:\n"
                ),
                "            async with self._settling:\n",
            ),
            (
                "cluster/dispatcher/sessions.py",
                ("            if await self._send_decided(number):\n                return\n"),
                (
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
                "return [Replace(stored, after), *_version_back(view, rollout, now_s, request_id)]",
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


def plant(mutant: Mutant | None, source: Path, place: Path) -> None:
    """Copy the product in `source` to `place`, and edit it if there is a bug to plant."""
    for name in COPIED:
        shutil.copytree(source / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "tests/__init__.py", place / "tests/__init__.py")
    (place / ".tools").symlink_to(ROOT / ".tools")
    for file, old, new in mutant.edits if mutant else ():
        text = (place / file).read_text()
        assert text.count(old) == 1, f"{file} has changed; plant the bug anew"
        (place / file).write_text(text.replace(old, new))


def _run(mutant: Mutant | None, source: Path, options: RunOptions) -> Run:
    """Run the harness on a copy, with a bug or without."""
    with tempfile.TemporaryDirectory(prefix="srm-") as directory:
        plant(mutant, source, Path(directory))
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults", *options.argv()],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": directory},
            capture_output=True,
            text=True,
            check=False,
        )
    run = Run.of(done.returncode, done.stderr)
    if done.returncode != 0 and not run.violations:
        sys.stderr.write(f"the run broke\n{done.stderr[-2000:]}\n")
    if mutant is None:
        sys.stderr.write(f"control {' '.join(options.argv())}: {run.as_control()}\n")
        sys.stderr.writelines(f"  {one[:160]}\n" for one in run.violations)
    return run


def _commit() -> str:
    """Return the commit of what is copied, and whether it has changes."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.check_output([*git, "rev-parse", "--short=7", "HEAD"], text=True).strip()
    changed = subprocess.check_output([*git, "status", "--porcelain", "--", *COPIED], text=True)
    return head + (WITH_CHANGES if changed else "")


def main(arguments: Sequence[str]) -> int:
    """Run every mutant, or those named, or write the page; return the exit code."""
    if arguments[:1] == ["--record"]:
        for path in arguments[1:]:
            record(Path(path))
        write_page([(one.name, one.stands_for) for one in MUTANTS])
        return 0
    if unknown := {*arguments} - {one.name for one in MUTANTS}:
        sys.stderr.write(f"no such bug: {' '.join(sorted(unknown))}\n")
        return 2
    chosen = [one for one in MUTANTS if not arguments or one.name in arguments]
    with tempfile.TemporaryDirectory(prefix="srm-") as directory:
        source = Path(directory)  # one state for all, whatever happens to the checkout meanwhile
        commit = _commit()
        plant(None, ROOT, source)
        results = _results(chosen, source, commit)
    missed = [result.name for result in results if not result.found]
    sys.stderr.write(f"{len(results) - len(missed)} of {len(results)} found\n")
    return 1 if missed or any(one.control is not Control.PASSED for one in results) else 0


def _results(chosen: Sequence[Mutant], source: Path, commit: str) -> list[Result]:
    """Run mutants one after another, and keep what is known after each."""
    known = {one.name: one for one in MUTANTS}
    trials = Trials(lambda name, options: _run(known.get(name), source, options), commit)
    output = ROOT / "build/faults"
    output.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for mutant in chosen:
        options = [RunOptions(seed, mutant.minutes, mutant.faults) for seed in SEEDS]
        results.append(trials.result(mutant.name, options))
        sys.stderr.write(f"{results[-1].told()}\n")
        sys.stderr.flush()
        kept = {one.name: one.kept() for one in results}
        (output / "mutants.json").write_text(json.dumps(kept, indent=2) + "\n")
    return results


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
