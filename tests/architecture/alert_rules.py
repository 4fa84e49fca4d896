"""Reads docs/reference/metrics.md and the expressions of alert rules, as far as they can be wrong.

An expression is taken apart into words: every one of them must be a function, a keyword, a label or
a metric that the reference has, so that nothing is passed over. It is not evaluated.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r'\s*(?:(?P<string>"[^"\\]*")|(?P<word>[A-Za-z_:][\w:]*)|(?P<number>\d[\w.]*)'
    r"|(?P<sign>=~|!~|==|!=|>=|<=|[-+*/%^<>=(){}\[\],]))"
)
_NAME: Final = re.compile(r"`((?:strongroom|process)_[a-z_*]+)`")
_SUFFIXES: Final = {
    "counter": {"": "counter"},
    "gauge": {"": "gauge"},
    "histogram": {"_bucket": "counter", "_sum": "counter", "_count": "counter"},
}
AGGREGATIONS: Final = frozenset({"sum", "max", "min", "avg", "count"})
RATES: Final = frozenset({"rate", "increase"})
FUNCTIONS: Final = AGGREGATIONS | RATES | {"time", "histogram_quantile", "absent"}
GROUPINGS: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
OPERATORS: Final = frozenset({"and", "or", "unless", "bool"})
SCRAPED: Final = frozenset({"job", "instance"})
"""Labels that Prometheus adds."""


@dataclass(frozen=True, slots=True)
class Documented:
    """A row of the reference: one metric."""

    kind: str
    labels: frozenset[str]
    text: str


def reference(page: str) -> dict[str, Documented]:
    """Return the documented metrics by name; what no table says the type of is a gauge."""
    found = {}
    columns: list[str] = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else []
        if not cells:
            columns = []
        elif not columns:
            columns = cells
        elif columns[0] == "metric":
            row = dict(zip(columns, cells, strict=True))
            labels = frozenset(re.findall(r"[a-z]+", row.get("labels", "")))
            for name in _NAME.findall(row["metric"]):
                found[name] = Documented(row.get("type") or "gauge", labels, row["what"])
    return found


def samples(documented: dict[str, Documented]) -> dict[str, Documented]:
    """Return what a rule may name: a histogram's three series in place of itself."""
    found = {"up": Documented("gauge", frozenset(), "")}
    for name, one in documented.items():
        for suffix, kind in _SUFFIXES[one.kind].items():
            labels = one.labels | ({"le"} if suffix == "_bucket" else set())
            found[name + suffix] = Documented(kind, labels, one.text)
    return found


def faults(expression: str, known: dict[str, Documented]) -> list[str]:
    """Return what is wrong with an expression."""
    return list(_Reader(expression, known).read())


class _Reader:
    """Goes over an expression once, from left to right."""

    def __init__(self, expression: str, known: dict[str, Documented]) -> None:
        self._tokens = _tokens(expression)
        self._known = known
        self._at = 0
        self._calls: list[str] = []
        """The function that each open parenthesis belongs to."""

    def read(self) -> Iterator[str]:
        groups, used = [], set()
        while (word := self._take()) is not None:
            if word == "(":
                self._calls.append("")
            elif word == ")":
                if not self._calls:
                    yield "a parenthesis too many"
                    return
                self._calls.pop()
            elif word in GROUPINGS:
                groups += self._enclosed()
            elif word in FUNCTIONS:
                yield from self._call(word, groups)
            elif _is_word(word) and word not in OPERATORS:
                used.add(word)
                yield from self._metric(word)
        if self._calls:
            yield "a parenthesis is missing"
        if not used:
            yield "no metric"
        labels = SCRAPED.union(*(self._known[one].labels for one in used if one in self._known))
        yield from (f"no metric here has the label {one}" for one in groups if one not in labels)

    def _call(self, name: str, groups: list[str]) -> Iterator[str]:
        if self._peek() in GROUPINGS:
            self._take()
            groups += self._enclosed()
        if self._take() == "(":
            self._calls.append(name)
        else:
            yield f"{name} is a function"

    def _metric(self, name: str) -> Iterator[str]:
        one = self._known.get(name)
        if one is None:
            yield f"there is no {name}"
            one = Documented("", frozenset(), "")
        if self._peek() == "{":
            yield from self._matchers(name, one)
        is_rated = self._peek() == "["
        if is_rated:
            self._enclosed()
        inside = self._calls[-1] if self._calls else ""
        if (inside in RATES) != is_rated:
            yield f"{name}: a range and a rate belong together"
        if (one.kind == "counter") != is_rated and one.kind:
            yield f"{name} is a {one.kind}"

    def _matchers(self, name: str, one: Documented) -> Iterator[str]:
        inside = self._enclosed()
        for label, sign, value in zip(inside[::3], inside[1::3], inside[2::3], strict=True):
            if label not in one.labels | SCRAPED:
                yield f"{name} has no label {label}"
            for wanted in value.strip('"').split("|") if "~" in sign else [value.strip('"')]:
                said = re.search(rf"\b{re.escape(wanted)}\b", one.text)
                if label not in SCRAPED and not wanted.isdigit() and not said:
                    yield f"{name}: {label} is never {wanted}"

    def _enclosed(self) -> list[str]:
        """Return what is between the brackets that come next, without commas."""
        found = []
        self._take()
        while (word := self._take()) not in {")", "}", "]", None}:
            found.append(str(word))
        return [word for word in found if word != ","]

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self) -> str | None:
        word = self._peek()
        self._at += 1
        return word


def _tokens(expression: str) -> list[str]:
    found, at = [], 0
    while at < len(expression.rstrip()):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise ValueError(f"cannot be read from here: {expression[at:]}")
        found.append(match[match.lastgroup or 0])
        at = match.end()
    return found


def _is_word(token: str) -> bool:
    return token[0].isalpha() or token[0] == "_"
