"""Reads the tests' `control` marks: which row, without which mechanism, in which test.

A control shows that the attack of a row fails because of that one mechanism: the same attack
succeeds in the same test once the mechanism is taken away.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

from tests.architecture.threat_rows import Place


@dataclass(frozen=True, slots=True)
class Control:
    """One mark."""

    threat_id: str
    without: Place
    test: Place
    asserts: int
    """How often the test asserts, or expects an error: it needs both outcomes."""


def controls(tests: Path) -> list[Control]:
    """Return every control, by row, then by place."""
    found = [
        one
        for path in sorted(tests.rglob("test_*.py"))
        for one in controls_in(
            ast.parse(path.read_text(), str(path)), path.relative_to(tests.parent).as_posix()
        )
    ]
    return sorted(found, key=lambda one: (one.threat_id, one.test.path, one.test.symbol or ""))


def controls_in(module: ast.Module, path: str) -> list[Control]:
    """Return the controls of one test module. A mark anywhere but on a test is no control."""
    return [
        Control(row, _place(without), Place(path, test.name), _outcomes(test))
        for test in ast.walk(module)
        if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) and test.name.startswith("test")
        for mark in test.decorator_list
        for row, without in [_read(mark)]
        if row
    ]


def _read(mark: ast.expr) -> tuple[str, str]:
    if not isinstance(mark, ast.Call) or ast.unparse(mark.func) != "pytest.mark.control":
        return "", ""
    texts = [ast.literal_eval(argument) for argument in mark.args]
    named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in mark.keywords}
    if len(texts) != 1 or set(named) != {"without"}:
        raise ValueError(f"a control reads control(ROW, without=MECHANISM): {ast.unparse(mark)}")
    return str(texts[0]), str(named["without"])


def _place(text: str) -> Place:
    path, _, symbol = text.partition("::")
    return Place(path, symbol or None)


def _outcomes(test: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    asserts = sum(isinstance(node, ast.Assert) for node in ast.walk(test))
    raises = sum(
        isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises"
        for node in ast.walk(test)
    )
    helpers = sum(
        isinstance(node, ast.Call) and ast.unparse(node.func).startswith("assert_")
        for node in ast.walk(test)
    )
    return asserts + raises + helpers
