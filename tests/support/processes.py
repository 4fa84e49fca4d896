"""What the kernel tells of processes."""

from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started, by whichever thread."""
    tasks = Path(f"/proc/{pid}/task")
    return [
        int(word) for task in tasks.iterdir() for word in (task / "children").read_text().split()
    ]
