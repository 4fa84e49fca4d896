"""docs/tutorial/compose.md, typed word for word into a lab of its own."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.lab.compose.driver import ContainerLab

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "compose.md"
PROJECT = {"COMPOSE_PROJECT_NAME": "tutorial"}


def commands() -> list[str]:
    """Return what the page says to type, less what the session has done: building."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    typed = re.findall(r"^\$ (.*)$", "".join(blocks), re.MULTILINE)
    return [command for command in typed if not command.startswith("docker-compose build")]


def enter(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=directory,
        env=os.environ | PROJECT,
        timeout=600,
        check=False,
    )


@pytest.fixture
def place(lab: ContainerLab, tmp_path: Path) -> Iterator[Path]:
    """Return where the reader sits; the images are built."""
    yield tmp_path
    enter("docker-compose down --volumes --timeout 2", tmp_path)


def test_tutorial_does_what_it_says(place: Path) -> None:
    said: dict[str, str] = {}
    for command in commands():
        done = enter(command, place)
        said[command] = done.stdout
        attack = "attacker.py" in command
        assert done.returncode == (1 if attack else 0), f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout.startswith("kept out") or not attack, command
    statuses = [text for command, text in said.items() if command.endswith("strongroom status")]
    assert len(re.findall(r"^m[123] +ready", statuses[-1], re.MULTILINE)) == 3
    (locked,) = (text for command, text in said.items() if "--admin-socket" in command)
    assert "the manager is locked" in locked
    assert not (place / "unlock.key").exists()
