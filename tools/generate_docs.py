"""The generated parts of the docs: written from the code, compared with it by `--check`.

They are pages of docs/reference, the column of tests in docs/threat-model.md, and in packaging/ the
manual pages and the completion of shells.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.protocol import errors
from tests.architecture.threat_rows import marks
from tools import docs_completion, docs_man
from tools.docs_api import api_page
from tools.docs_commands import commands_page
from tools.docs_controls import controls_page
from tools.docs_settings import settings_page

_THREAT = re.compile(r"(\| (T-\d+) \|.*\|)[^|]*\|")

ROOT = Path(__file__).resolve().parent.parent


def subclasses(
    cls: type[errors.ClusterError], depth: int = 0
) -> Iterator[tuple[int, type[errors.ClusterError]]]:
    """Yield every class below `cls` with its depth, in the order of definition."""
    for child in cls.__subclasses__():
        yield depth, child
        yield from subclasses(child, depth + 1)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def errors_page() -> str:
    """Return the error reference: one row a class."""
    lines = [
        "# Errors",
        "",
        "Written by `make docs` from `cluster/protocol/errors.py`; do not edit.",
        "",
        "`code` is stable and is what programs look at; the message says what to do next and may",
        "change. Indentation shows the tree: whoever handles a class handles those below it. A",
        "retryable error may go away by itself: send the same request again, under the same",
        "request id, to any manager.",
        "",
        "| error | code | HTTP status | retryable | when | default message |",
        "|---|---|---|---|---|---|",
    ]
    for depth, cls in subclasses(errors.ClusterError):
        when = (cls.__doc__ or "").strip().splitlines()[0]
        retryable = "yes" if cls.retryable else "no"
        name = "&nbsp;&nbsp;" * depth + f"`{cls.__name__}`"
        lines.append(
            f"| {name} | `{cls.code}` | {cls.status} | {retryable} | {_cell(when)} "
            f"| {_cell(cls.default_message)} |"
        )
    lines += ["", "`InvariantViolation` is none of these: it is a bug, and ends the process.", ""]
    return "\n".join(lines)


def threat_model_page() -> str:
    """Return the threat model, its column of tests filled in from the tests' marks."""
    text = (ROOT / "docs" / "threat-model.md").read_text()
    marked = marks(ROOT / "tests")
    lines = []
    for line in text.splitlines():
        row = _THREAT.fullmatch(line)
        if row is not None:
            files = ", ".join(f"`{path}`" for path in sorted(marked.get(row[2], ())))
            line = f"{row[1]} {files} |"  # noqa: PLW2901  # the same line, filled in
        lines.append(line)
    return "\n".join([*lines, ""])


PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/api.md": api_page,
    "docs/reference/cli.md": commands_page,
    "docs/reference/config.md": settings_page,
    "docs/reference/controls.md": controls_page,
    "docs/reference/errors.md": errors_page,
    "docs/threat-model.md": threat_model_page,
    docs_completion.BASH: docs_completion.bash,
    docs_completion.ZSH: docs_completion.zsh,
    **docs_man.pages(),
}


def main() -> int:
    """Write the pages, or with `--check` name those that differ from the code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a page differs"
    )
    check = parser.parse_args().check
    stale = False
    for name, render in PAGES.items():
        page = ROOT / name
        text = render()
        if page.is_file() and page.read_text() == text:
            continue
        if check:
            print(f"{name} differs from the code; run `make docs`", file=sys.stderr)
            stale = True
        else:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
