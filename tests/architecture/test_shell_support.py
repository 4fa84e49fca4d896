"""Manual pages and completion: what is generated works in the programs that read it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.docs_commands import commands

BASH = """
source {file}
COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); _strongroom
echo "${{COMPREPLY[@]}}"
"""
ZSH = """
compadd() {{ shift; print -r -- $@ }}
_files() {{ print files }}
complete_() {{ words=({words}); CURRENT=$#words; source {file} }}
complete_
"""
TRIED = [
    ("strongroom sec", {"secret"}, {"events"}),
    ("strongroom secret ro", {"rotate", "rollback"}, {"create"}),
    ("/opt/bin/strongroom secret create --l", {"--label"}, {"--wait"}),
    ("strongroom events --format ''", {"table", "json"}, {"--follow"}),
    ("strongroom-agent run --mounts ''", {"kernel", "given"}, {"--run-dir"}),
    # A name that somebody gave is no command.
    ("strongroom secret inspect secret --f", {"--format"}, {"create"}),
]


def offered(shell: str, program: str) -> set[str]:
    done = subprocess.run([shell, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


@pytest.mark.parametrize(("words", "some", "never"), TRIED)
def test_bash_completes(root: Path, words: str, some: set[str], never: set[str]) -> None:
    file = root / "packaging" / "completion" / "strongroom.bash"
    found = offered("bash", BASH.format(file=file, words=words))
    assert some <= found
    assert not never & found


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(("words", "some", "never"), TRIED)
def test_zsh_completes(root: Path, words: str, some: set[str], never: set[str]) -> None:
    """Of what it is given the shell itself leaves out what does not begin with the word."""
    file = root / "packaging" / "completion" / "_strongroom"
    found = offered("zsh", ZSH.format(file=file, words=words))
    assert some <= found
    if words.endswith("''"):
        assert not never & found


def test_every_command_has_a_manual_page(root: Path) -> None:
    for command in commands():
        program, noun = command.split()[:2]
        page = program if program == "strongroom-agent" else f"{program}-{noun}"
        text = (root / "packaging" / "man" / f"{page}.1").read_text()
        assert f'.SS "{command}"'.replace("-", "\\-") in text, command


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_roff_takes_every_page_without_a_warning(root: Path) -> None:
    pages = sorted(map(str, (root / "packaging" / "man").glob("*.1")))
    for page in pages:
        done = subprocess.run(
            ["groff", "-man", "-ww", "-z", "-Tutf8", page], capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_no_page_is_left_of_a_command_that_is_gone(root: Path) -> None:
    nouns = {command.split()[1] for command in commands() if command.startswith("strongroom ")}
    expected = {"strongroom", "strongroom-agent", *(f"strongroom-{noun}" for noun in nouns)}
    assert {page.stem for page in (root / "packaging" / "man").glob("*")} == expected
