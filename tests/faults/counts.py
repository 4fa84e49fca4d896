"""What the recorded runs come to, as tables of docs/reference/reliability.md.

`python -m tests.faults.counts [SUMMARY ...]` records summaries of runs, as `build/faults/runs/` has
them, beside this module and writes the tables anew; without any it only writes these. A run that
found a violation is not recorded: what it found belongs into the page's own words.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.bench.published import replaced
from tests.faults.nemesis import FAULTS

ROOT: Final = Path(__file__).resolve().parents[2]
RECORDED: Final = Path(__file__).parent / "runs"
PAGE: Final = ROOT / "docs/reference/reliability.md"
SECTION: Final = "counts"
FIGURES: Final = {
    "operations": "operations judged",
    "resent": "of these sent more than once",
    "overlapping_faults": "second faults",
    "managers_ended_by_themselves": "managers that ended by themselves",
    "duty_terms": "terms of the duties",
    "watched_revisions": "revisions watched",
    "revisions_judged": "revisions judged one by one",
    "file_changes_seen": "changes of files seen",
    "receipts": "receipts",
    "probe_deliveries": "deliveries to the probe",
    "audit_links": "audit links",
    "hook_calls": "calls of the hook",
    "certificates_seen": "certificates",
}
"""Figures of a summary, and what the page calls them."""

Summary = Mapping[str, Any]


def recorded() -> list[Summary]:
    """Return the recorded runs, in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted(RECORDED.glob("*.json"))]


def tables(runs: Sequence[Summary]) -> str:
    """Return the commands, and two tables with a column a run and one for all.

    Every kind of fault has its row: one that no run injected shows as 0.
    """
    names = [chr(ord("a") + number) for number in range(len(runs))]
    lines = []
    for name, run in zip(names, runs, strict=True):
        lines += [f"- **{name}**{_told(run)}:", ""]
        lines += [f"      {command}" for command in _commands(run)]
        lines += [""]
    kinds = sorted({*FAULTS, *(kind for run in runs for kind in run["faults"])})
    faults = [(f"`{kind}`", [run["faults"].get(kind, 0) for run in runs]) for kind in kinds]
    faults.append(("**faults**", [sum(run["faults"].values()) for run in runs]))
    lines += [*_table("fault", names, faults), ""]
    figures = [(words, [run.get(key) for run in runs]) for key, words in FIGURES.items()]
    lines += _table("what was judged", names, [row for row in figures if any(row[1])])
    return "\n".join(lines)


def _told(run: Summary) -> str:
    return f", {run['about']}" if run.get("about") else ""


def _commands(run: Summary) -> Sequence[str]:
    commands: Sequence[str] = run.get("commands") or [run["command"]]
    return commands


def _table(
    head: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[int | None]]]
) -> Iterator[str]:
    yield f"| {head} | {' | '.join(names)} | all |"
    yield "|---" * (len(names) + 2) + "|"
    for words, counts in rows:
        cells = ["" if count is None else f"{count:,}" for count in counts]
        total = sum(count for count in counts if count is not None)
        yield f"| {words} | {' | '.join(cells)} | {total:,} |"


def record(path: Path) -> None:
    """Keep a run's summary. Raises ValueError for one that found a violation."""
    summary = json.loads(path.read_text())
    if summary.get("violations"):
        raise ValueError(f"{path} found {summary['violations']} violations")
    RECORDED.mkdir(exist_ok=True)
    kept = RECORDED / f"{summary.get('began', path.stem)}.json"
    kept.write_text(json.dumps(summary, indent=2) + "\n")


def main(paths: Sequence[str]) -> int:
    """Record runs and write the tables; return the exit code."""
    for path in paths:
        record(Path(path))
    PAGE.write_text(replaced(PAGE.read_text(), SECTION, tables(recorded())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
