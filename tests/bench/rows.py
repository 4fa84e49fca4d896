"""What a measurement leaves behind: rows, as JSON and as a table."""

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from tests.bench.targets import target_of

MEDIAN: Final = 0.5


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
    target: str
    """What the value should be, such as "<= 15"; empty where nothing is asked."""
    met: bool | None
    """Whether it is; None without a target."""
    note: str

    @classmethod
    def of(
        cls, name: str, unit: str, samples: Sequence[float], share: float = MEDIAN, note: str = ""
    ) -> Self:
        """Return the row of some samples; `share` of them do not exceed its value."""
        value, target = percentile(samples, share), target_of(name)
        return cls(
            name=name,
            unit=unit,
            value=_rounded(value),
            low=_rounded(min(samples)),
            high=_rounded(max(samples)),
            load=round(os.getloadavg()[0], 2),
            n=len(samples),
            target="" if target is None else str(target),
            met=None if target is None else target.met(value),
            note=note,
        )

    @classmethod
    def missing(cls, name: str, why: str) -> Self:
        """Return the row of what could not be measured here."""
        load = round(os.getloadavg()[0], 2)
        return cls(name, "", 0.0, 0.0, 0.0, load, 0, target="", met=None, note=f"not run: {why}")


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the sample that `share` of all do not exceed; for a half, the median."""
    if share == MEDIAN:
        return statistics.median(samples)
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _rounded(value: float) -> float:
    return float(f"{value:.3g}") if value < 100 else round(value)  # three digits


_HEADING = "| what | value | low | high | unit | n | load | target | met | note |"
_RULE = "|---|--:|--:|--:|---|--:|--:|---|---|---|"
_MET = {None: "", True: "yes", False: "no"}


def as_table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        f"| {row.name} | {row.value:g} | {row.low:g} | {row.high:g} | {row.unit} | {row.n} "
        f"| {row.load:g} | {row.target} | {_MET[row.met]} | {_told(row)} |"
        for row in rows
    ]
    return "\n".join([_HEADING, _RULE, *lines])


def _told(row: Row) -> str:
    """Return the note, and by how much the target is missed."""
    target = target_of(row.name)
    if target is None or row.met is not False:
        return row.note
    missed = f"missed {target.missed_by(row.value):.2g} times over"
    return f"{missed}; {row.note}" if row.note else missed


def save(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as JSON, and the table beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    path.with_suffix(".md").write_text(as_table(rows) + "\n")
