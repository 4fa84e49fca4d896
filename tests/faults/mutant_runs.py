"""Does a run count as having found a planted bug? Only beside a run without the bug.

Owns the decision and its record; planting and running is `mutants`' business. A violation that
names a broken promise counts where the control breaks none. That a cluster does not come to rest
may be a slow machine: it counts only where the control of the same options comes to rest. That the
harness itself broke, or could not decide, never counts.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from tests.bench.published import replaced

ROOT: Final = Path(__file__).resolve().parents[2]
RECORDED: Final = Path(__file__).with_name("mutants.json")
PAGE: Final = ROOT / "docs/reference/reliability.md"
SECTION: Final = "mutants"
MARK: Final = "VIOLATION "
WITH_CHANGES: Final = " with changes"
SHOWN: Final = 110
"""Characters of a violation on the page."""
UNREST: Final = (
    "it does not come to rest",
    "a rollout does not end at rest",
    "not converged",
    "writes cannot be settled",
    " is not ready: ",
    " does not finish what it does",
)
BROKEN_HARNESS: Final = (" broke: ", "a sidecar broke", "nothing is proven")


class Weight(StrEnum):
    """What a violation says."""

    PROMISE = "breaks a promise"
    UNREST = "does not come to rest"
    NOTHING = "says nothing"


class Control(StrEnum):
    """How the run without a bug ended."""

    PASSED = "passed"
    UNREST = "does not come to rest"
    FAILED = "breaks a promise or broke"


def weight(violation: str) -> Weight:
    """Return what a violation's first line says."""
    if any(words in violation for words in BROKEN_HARNESS):
        return Weight.NOTHING
    return Weight.UNREST if any(words in violation for words in UNREST) else Weight.PROMISE


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run and its control have in common."""

    seed: int
    minutes: float
    faults: str

    def argv(self) -> list[str]:
        """Return the options as words of a command."""
        return [
            *("--seed", str(self.seed)),
            *("--minutes", f"{self.minutes:g}"),
            *("--only", self.faults),
        ]


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended: its exit code and the first line of each violation."""

    code: int
    violations: tuple[str, ...] = ()

    @classmethod
    def of(cls, code: int, printed: str) -> "Run":
        """Return a run by what it printed."""
        lines = (line for line in printed.splitlines() if line.startswith(MARK))
        return cls(code, tuple(line.removeprefix(MARK) for line in lines))

    def first(self, wanted: Weight) -> str:
        """Return the first violation of a weight; empty if there is none."""
        return next((one for one in self.violations if weight(one) is wanted), "")

    def as_control(self) -> Control:
        """Return what a run without a bug is worth beside one with it."""
        if self.code == 0 and not self.violations:
            return Control.PASSED
        weights = {weight(one) for one in self.violations}
        return Control.UNREST if weights == {Weight.UNREST} else Control.FAILED


@dataclass(frozen=True, slots=True)
class Result:
    """What was found of a planted bug, and by whose judges."""

    name: str
    options: str
    violations: int
    violation: str
    weight: Weight
    control: Control | None
    """None where there was nothing to compare."""
    commit: str

    @property
    def found(self) -> bool:
        """Whether it counts."""
        match self.weight:
            case Weight.PROMISE:
                return self.control in {Control.PASSED, Control.UNREST}
            case Weight.UNREST:
                return self.control is Control.PASSED
            case Weight.NOTHING:
                return False

    def told(self) -> str:
        """Return it for a terminal."""
        verdict = "found" if self.found else "MISSED"
        control = f"; control {self.control}" if self.control else ""
        said = f", {self.weight}: {self.violation[:160]}" if self.violation else ""
        return f"{self.name}: {verdict} ({self.options}){said}{control}"

    def kept(self) -> dict[str, Any]:
        """Return it for a file."""
        return {**asdict(self), "found": self.found}


@dataclass(slots=True)
class Trials:
    """Runs bugs, and the product without them once for each set of options."""

    carry_out: Callable[[str, RunOptions], Run]
    """Runs a bug by its name; without a name the product as it is."""
    commit: str
    _controls: dict[RunOptions, Control] = field(default_factory=dict)

    def control(self, options: RunOptions) -> Control:
        """Return how the product without a bug does, run once for these options."""
        if options not in self._controls:
            self._controls[options] = self.carry_out("", options).as_control()
        return self._controls[options]

    def result(self, name: str, choices: Iterable[RunOptions]) -> Result:
        """Return what the first of some options finds, or what the last of them says."""
        last: Result | None = None
        for options in choices:
            last = self._result(name, options)
            if last.found:
                break
        assert last is not None, "a bug is run with some options"
        return last

    def _result(self, name: str, options: RunOptions) -> Result:
        run = self.carry_out(name, options)
        how = next(
            (one for one in (Weight.PROMISE, Weight.UNREST) if run.first(one)), Weight.NOTHING
        )
        said = run.first(how) or (f"the run ended with {run.code}" if run.code else "")
        control = None if how is Weight.NOTHING else self.control(options)
        return Result(
            name, " ".join(options.argv()), len(run.violations), said, how, control, self.commit
        )


# --- the record, and the page ---


def load() -> dict[str, Mapping[str, Any]]:
    """Return what is recorded, by the name of the bug."""
    return dict(json.loads(RECORDED.read_text()))


def record(path: Path) -> None:
    """Keep the results of a call of `make faults-mutants`; what it did not run stays as it was.

    Raises ValueError, and keeps nothing, for a bug that was not found beside a control that passed,
    and for a product that no commit has.
    """
    results = json.loads(path.read_text())
    for name, result in results.items():
        if not result["found"] or result["control"] != Control.PASSED:
            raise ValueError(f"{name} was not found beside a control that passed")
        if result["commit"].endswith(WITH_CHANGES):
            raise ValueError(f"{name} was found in what no commit has")
    RECORDED.write_text(json.dumps({**load(), **results}, indent=2, sort_keys=True) + "\n")


def table(bugs: Sequence[tuple[str, str]], results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page's table of bugs, each with its name and what it stands for."""
    lines = ["| bug | stands for | found as | judges and control |", "|---|---|---|---|"]
    for name, stands_for in bugs:
        result = results.get(name, {})
        commit = result.get("commit")
        judges = f"`{commit}`, control passed" if commit else "earlier, without a control"
        found = _cell(result["violation"]) if result else "not found yet"
        seed = f" ({_seed(result['options'])})" if result else ""
        lines.append(f"| `{name}` | {stands_for} | {found}{seed} | {judges if result else ''} |")
    return "\n".join(lines)


def _seed(options: str) -> str:
    words = options.split()
    return f"seed {words[words.index('--seed') + 1]}"


def _cell(text: str) -> str:
    short = text if len(text) <= SHOWN else f"{text[:SHOWN].rstrip()} ..."
    return short.replace("|", "\\|")


def write_page(bugs: Sequence[tuple[str, str]]) -> None:
    """Write the table of the page anew."""
    PAGE.write_text(replaced(PAGE.read_text(), SECTION, table(bugs, load())))
