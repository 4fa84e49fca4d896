"""What a run leaves behind: `latest.json`, and a table for people."""

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.scale.churn import EVERYWHERE
from tests.scale.filling import name_of
from tests.scale.findings import Findings, Rotated
from tests.scale.options import Options


def as_table(options: Options, findings: Findings) -> str:
    """Return what was found, as Markdown."""
    title = (
        f"{options.agents} agents, {options.secrets} secrets, {options.services} services, "
        f"{options.engine}, {options.minutes:g} minutes, seed {options.seed}"
    )
    lines = ["", title, "", "| what | value |", "|---|--:|"]
    return "\n".join([*lines, *(f"| {what} | {value} |" for what, value in _rows(findings)), ""])


def save(options: Options, findings: Findings, directory: Path) -> Path:
    """Write everything as JSON and return where."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "latest.json"
    told = {
        "replay": options.replay(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        **asdict(findings),
    }
    path.write_text(json.dumps(told, indent=1) + "\n")
    return path


def _rows(findings: Findings) -> Iterator[tuple[str, str]]:
    for name, taken in findings.phases.items():
        yield name, ", ".join(f"{what} {value:.1f} s" for what, value in taken.items())
    everywhere = [one for one in findings.rotations if one.secret == name_of(0)]
    few = [one for one in findings.rotations if one.secret != name_of(0)]
    yield from _rotation_rows("a service's secret", few)
    yield from _rotation_rows(f"the secret that is {EVERYWHERE}", everywhere)
    if findings.returns:
        slowest = max(one.synced_s for one in findings.returns)
        count = sum(one.agents for one in findings.returns)
        yield f"{count} agents that returned, the slowest batch", f"{slowest:.2f} s"
    samples = findings.samples
    if samples:
        middle, last = samples[len(samples) // 2], samples[-1]
        yield (
            "manager, RssAnon half way and at the end",
            _megabytes(middle.manager_kb, last.manager_kb),
        )
        yield (
            "simulator, RssAnon half way and at the end",
            _megabytes(middle.simulator_kb, last.simulator_kb),
        )
        yield "manager, most descriptors", str(max(one.manager_fds for one in samples))
        yield (
            "manager, longest wait for /healthz",
            f"{max(s.manager_answer_s for s in samples):.2f} s",
        )
        yield "simulator, latest its loop was", f"{max(s.simulator_lag_s for s in samples):.2f} s"
        span_s = (last.at_s - samples[0].at_s) or 1.0
        used_s = last.manager_cpu_s - samples[0].manager_cpu_s
        yield "manager, CPU during the churn", f"{100 * used_s / span_s:.0f} %"
        yield (
            "load of the machine",
            f"{min(s.load for s in samples):.1f} to {max(s.load for s in samples):.1f}",
        )
    yield "changes", ", ".join(f"{n} {what}" for what, n in sorted(findings.changes.items()))
    yield "files judged at the end", str(findings.files_judged)


def _rotation_rows(what: str, rotations: Sequence[Rotated]) -> Iterator[tuple[str, str]]:
    if not rotations:
        return
    acked = sorted(one.acked_s * 1_000 for one in rotations)
    p50, p99 = acked[len(acked) // 2], acked[min(len(acked) - 1, int(0.99 * len(acked)))]
    agents = max(one.agents for one in rotations)
    cpu = sorted(one.manager_cpu_s * 1_000 / max(one.agents, 1) for one in rotations)
    yield (
        f"rotation of {what}, last ack of up to {agents} agents (n = {len(acked)})",
        f"p50 {p50:.0f}, p99 {p99:.0f}, max {acked[-1]:.0f} ms",
    )
    yield f"rotation of {what}, manager's CPU an agent", f"{cpu[len(cpu) // 2]:.1f} ms"


def _megabytes(*sizes_kb: int) -> str:
    return ", ".join(f"{size / 1_000:.0f} MB" for size in sizes_kb)
