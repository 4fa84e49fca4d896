"""What the person at the terminal reads, and the tally of what was observed.

Prints and counts; runs nothing. A claim is OK, DIFFERS, or NOT SHOWN with a reason.
"""

import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

WIDTH = 98
_SHOWN_LINES = 24


class Verdict(StrEnum):
    """What came of a claim."""

    OK = "OK"
    DIFFERS = "DIFFERS"
    NOT_SHOWN = "NOT SHOWN"


_COLOURS = {Verdict.OK: "32", Verdict.DIFFERS: "31;1", Verdict.NOT_SHOWN: "33"}


@dataclass(frozen=True, slots=True)
class Observation:
    """One claim of a step, and what was seen."""

    step: str
    claim: str
    verdict: Verdict
    seen: str


class Narrator:
    """Tells the lab, step by step."""

    def __init__(self, out: TextIO = sys.stdout, *, waits: bool = False) -> None:
        """Make a narrator; with `waits` a person advances with Enter."""
        self._out = out
        self._waits = waits
        self._colours = out.isatty()
        self._step = ""
        self._brief = False
        self.observations: list[Observation] = []

    def step(self, title: str, text: str) -> None:
        """Begin a step."""
        if self._step:
            self._wait()
        self._step = title
        self._line()
        self._line(self._painted(f"── {title} ".ljust(WIDTH, "─"), "1"))
        self.say(text)

    @contextmanager
    def briefly(self) -> Iterator[None]:
        """Print nothing but what is wrong: for what a scenario only builds on."""
        self._brief = True
        try:
            yield
        finally:
            self._brief = False

    @property
    def is_brief(self) -> bool:
        """Whether only what is wrong is printed."""
        return self._brief

    def say(self, text: str) -> None:
        """Tell what is about to happen, or what to look at."""
        if self._brief:
            return
        for line in textwrap.wrap(" ".join(text.split()), WIDTH):
            self._line(line)

    def command(self, words: Sequence[str], note: str = "") -> None:
        """Show what a person would type."""
        if self._brief:
            return
        self._line()
        self._line(self._painted(f"$ {shlex.join(words)}{note}", "36"))

    def output(self, text: str) -> None:
        """Show what a command printed, shortened in the middle when it is long."""
        lines = [] if self._brief else text.rstrip("\n").splitlines()
        if len(lines) > _SHOWN_LINES:
            left_out = f"... {len(lines) - _SHOWN_LINES} lines left out ..."
            lines = [*lines[: _SHOWN_LINES // 2], left_out, *lines[-_SHOWN_LINES // 2 :]]
        for line in lines:
            self._line(f"    {line}")

    def look_at(self, text: str) -> None:
        """Point at what matters in the output."""
        self.say(f"Look at: {text}")

    def observe(self, claim: str, *, seen: object, expected: object = True) -> bool:
        """Record a claim: what was seen must equal what was expected."""
        agrees = seen == expected
        told = "" if agrees and expected is True else f"{seen!r}"
        if not agrees:
            told = f"expected {expected!r}, observed {seen!r}"
        self._record(claim, Verdict.OK if agrees else Verdict.DIFFERS, told)
        return agrees

    def not_shown(self, claim: str, reason: str) -> None:
        """Record a claim that this machine cannot show."""
        self._record(claim, Verdict.NOT_SHOWN, reason)

    def failed(self, reason: str) -> None:
        """Record that a step could not be carried out."""
        self._record("the step runs to its end", Verdict.DIFFERS, reason)

    def summary(self) -> None:
        """Print the table of all steps."""
        self._line()
        self._line(self._painted("── What was observed ".ljust(WIDTH, "─"), "1"))
        for step in self.steps:
            counts = [
                f"{sum(one.step == step and one.verdict is verdict for one in self.observations)}"
                f" {verdict}"
                for verdict in Verdict
                if any(one.step == step and one.verdict is verdict for one in self.observations)
            ]
            self._line(f"  {step:<62} {', '.join(counts)}")
        for one in self.observations:
            if one.verdict is not Verdict.OK:
                self._show(one)

    @property
    def steps(self) -> list[str]:
        """The steps that observed something, in order."""
        return list(dict.fromkeys(one.step for one in self.observations))

    @property
    def exit_code(self) -> int:
        """0 when everything was shown, 1 when something differs, 3 when something was not shown."""
        verdicts = {one.verdict for one in self.observations}
        if Verdict.DIFFERS in verdicts or not verdicts:
            return 1
        return 3 if Verdict.NOT_SHOWN in verdicts else 0

    def _record(self, claim: str, verdict: Verdict, seen: str) -> None:
        observation = Observation(self._step, claim, verdict, seen)
        self.observations.append(observation)
        if not self._brief or verdict is not Verdict.OK:
            self._show(observation)

    def _show(self, one: Observation) -> None:
        word = self._painted(f"{one.verdict:<9}", _COLOURS[one.verdict])
        self._line(f"  {word} {one.claim}" + (f": {one.seen}" if one.seen else ""))

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text

    def _line(self, text: str = "") -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def _wait(self) -> None:
        if self._waits:
            self._out.write("\n[Enter] goes on, Ctrl-C ends ")
            self._out.flush()
            if not sys.stdin.readline():
                self._waits = False
