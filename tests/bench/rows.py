"""What a measurement leaves behind: rows, as JSON and as a table."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure: `value` is the median of `n` samples (or the percentile its name says),
    `low` and `high` their ends."""

    name: str
    unit: str
    value: float
    low: float
    high: float
    load: float
    """The machine's load over the last minute when the row was done."""
    n: int

    @classmethod
    def of(cls, name: str, unit: str, samples: Sequence[float], share: float = 0.5) -> Self:
        """Return the row of some samples; `share` of them do not exceed its value."""
        return cls(
            name,
            unit,
            _rounded(percentile(samples, share)),
            _rounded(min(samples)),
            _rounded(max(samples)),
            round(os.getloadavg()[0], 2),
            len(samples),
        )


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the sample that `share` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _rounded(value: float) -> float:
    return float(f"{value:.3g}") if value < 100 else round(value)  # three digits


def as_table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| what | value | low | high | unit | n | load |", "|---|--:|--:|--:|---|--:|--:|"]
    lines += [
        f"| {row.name} | {row.value:g} | {row.low:g} | {row.high:g} | {row.unit} "
        f"| {row.n} | {row.load:g} |"
        for row in rows
    ]
    return "\n".join(lines)


def save(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
