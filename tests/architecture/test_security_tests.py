"""The tests that docs/reference/security-tests.md names are there."""

import re
from pathlib import Path

PLACE = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_every_test_that_is_named_exists(root: Path) -> None:
    named = PLACE.findall((root / "docs" / "reference" / "security-tests.md").read_text())
    assert len(named) > 30
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (root / path).is_file() or (name and f"def {name}(" not in (root / path).read_text())
    ]
    assert missing == []
