"""What the architecture tests read: the sources of both packages, parsed."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def modules() -> Mapping[str, ast.Module]:
    """Return every hand-written module of both packages by its path from the checkout."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(), str(path))
        for package in ("cluster", "agent")
        for path in sorted((ROOT / package).rglob("*.py"))
        if "_pb2" not in path.name
    }
