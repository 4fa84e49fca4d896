"""What processes take, as the kernel tells it."""

import os
import re
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_RSS_ANON: Final = re.compile(r"^RssAnon:\s+(\d+) kB$", re.MULTILINE)


def anonymous_kb(pid: int) -> int:
    """Return a process's anonymous resident memory in kB: what is its own."""
    found = _RSS_ANON.search(Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) if found else 0


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
