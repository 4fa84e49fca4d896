"""Each scenario of the lab runs, and its page in docs/tutorial tells what is to be seen."""

import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.lab.scenarios.registry import DEFAULT, SCENARIOS
from docs.lab.scenarios.scenario import Scenario
from tests.support.lab_place import PATIENCE_S, REPOSITORY, Place, lab_place

SHOWN_PORT = 17_440
"""The pages show the lab at its default place."""
OTHERS = [scenario for scenario in SCENARIOS if scenario is not DEFAULT]


@pytest.fixture
def place() -> Iterator[Place]:
    with lab_place() as made:
        yield made


def blocks(page: Path, kind: str) -> list[str]:
    """Return the fenced blocks of a kind."""
    return re.findall(rf"```{kind}\n(.*?)```", page.read_text(), re.DOTALL)


def typed(page: Path) -> list[tuple[str, str]]:
    """Return each command that a page has its reader type, and what it says will appear."""
    commands = []
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            commands.append((command, output))
    return commands


def plain(text: str, place: Place | None = None) -> str:
    """Return a line without what differs between two runs: places, numbers, times, spaces."""
    if place is not None:
        text = text.replace(str(place.layout.runtime), "/run/strongroom-lab")
        text = text.replace(str(place.layout.state), ".lab")
    text = re.sub(r"\b[A-Z][a-z]{2} +\d+ \d\d:\d\d\b", "DATE", text)
    text = re.sub(r"\b[0-9.]+ m?s\b", "TIME", text)
    text = re.sub(r"\b(?!40[013]\b|200\b)\d{3,}\b", "N", text)
    text = re.sub(r"(request ids|total|campaigns): \d+", r"\1: N", text)
    return " ".join(text.split())


def missing_line(excerpts: list[str], output: list[str]) -> str:
    """Return the first line of the excerpts that is not in the output where it should be."""
    rest = iter(output)
    for excerpt in excerpts:
        for line in excerpt.splitlines():
            wanted = plain(line)
            if wanted != "..." and not any(wanted == seen for seen in rest):
                return line
    return ""


def in_place(command: str, place: Place) -> str:
    """Return a command of a page so that it means this test's lab."""
    lab = shlex.join(place.command())
    return re.sub(r'make lab ARGS="([^"]*)"', rf"{lab} \1", command)


def run_typed(command: str, place: Place) -> str:
    script = f". {place.layout.state}/env; {in_place(command, place)}"
    done = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        cwd=REPOSITORY,
        check=False,
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.needs_root
@pytest.mark.parametrize("scenario", OTHERS, ids=lambda scenario: scenario.name)
def test_scenario_shows_what_its_page_tells(place: Place, scenario: Scenario) -> None:
    """All observations hold, each quoted line appears in its order, each command does as quoted."""
    page = REPOSITORY / scenario.tutorial
    (start, _), *others = typed(page)
    assert start == f'make lab ARGS="--scenario {scenario.name}"'
    words = [*shlex.split(in_place(start, place)), "--auto", "--stay-up"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        output = []
        for line in lab.stdout:
            output.append(line)
            if "stays up until" in line:
                break
        told = [run_typed(command, place) for command, _ in others]
        lab.send_signal(signal.SIGTERM)
        lab.stdout.read()
        assert lab.wait(PATIENCE_S) == 0, "".join(output)
    assert told == [expected for _, expected in others]
    assert missing_line(blocks(page, "text"), [plain(line, place) for line in output]) == ""
    assert "NOT SHOWN" not in "".join(output)
    assert place.left_behind() == []


def test_every_scenario_has_a_page_and_every_page_a_scenario() -> None:
    pages = {page.name for page in (REPOSITORY / "docs" / "tutorial").glob("*.md")}
    wanted = {Path(scenario.tutorial).name for scenario in SCENARIOS}
    assert wanted <= pages
    told = (REPOSITORY / "docs" / "lab" / "README.md").read_text()
    assert [scenario.name for scenario in SCENARIOS if scenario.tutorial[5:] not in told] == []


@pytest.mark.parametrize(
    ("excerpt", "missing"),
    [
        ("a 12 ms\n...\nc 4711", ""),
        ("c 4711\na 12 ms", "a 12 ms"),
        ("x 403", "x 403"),
        ("b", ""),
    ],
)
def test_line_that_a_page_makes_up_is_found(excerpt: str, missing: str) -> None:
    output = ["a 7 ms", "b", "x 200", "c 815"]
    assert missing_line([excerpt], [plain(line) for line in output]) == missing
