"""Reads docs/threat-model.md and the tests' `threat` marks.

A row is a table line whose first cell is an id, `| T-07 | claim | mechanism | tests |`. The
mechanism names files in backquotes, `cluster/pki/tls.py` or `cluster/pki/tls.py::server_context`.
"""

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

_ROW = re.compile(r"^\|\s*(T-\d{2,3})\s*\|(.*)$", re.MULTILINE)
_PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)+)(?:::(\w+(?:\.\w+)*))?`")


@dataclass(frozen=True, slots=True)
class Place:
    """A file, and perhaps a name in it."""

    path: str
    symbol: str | None

    def exists(self, root: Path) -> bool:
        """Return whether the file is there and defines the name."""
        file = root / self.path
        if self.symbol is None:
            return file.exists()
        if not file.is_file():
            return False
        last = re.escape(self.symbol.rpartition(".")[2])
        definition = rf"^\s*(?:async )?(?:def|class) {last}\b|^\s*{last}\b.*="
        return re.search(definition, file.read_text(), re.MULTILINE) is not None


@dataclass(frozen=True, slots=True)
class Row:
    """One threat: what its row says."""

    threat_id: str
    places: tuple[Place, ...]

    @property
    def mechanisms(self) -> tuple[Place, ...]:
        """Return the places that are not tests."""
        return tuple(place for place in self.places if not place.path.startswith("tests/"))


def rows(text: str) -> list[Row]:
    """Return the rows in the order of the document."""
    return [
        Row(
            match[1], tuple(Place(path, symbol or None) for path, symbol in _PATH.findall(match[2]))
        )
        for match in _ROW.finditer(text)
    ]


def marks(tests: Path) -> dict[str, set[str]]:
    """Return the files that carry `pytest.mark.threat(id)`, by id."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(tests.rglob("test_*.py")):
        for threat_id in marks_in(ast.parse(path.read_text(), str(path))):
            found[threat_id].add(path.relative_to(tests.parent).as_posix())
    return dict(found)


def marks_in(module: ast.Module) -> set[str]:
    """Return the ids that one test module is marked with."""
    return {
        argument.value
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.threat"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }
