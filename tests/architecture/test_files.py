"""No file holds a key, a token, a machine's path or unfinished work; generated docs are current."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path("tools") / "check_files.py"


def check(root: Path, where: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Run the file check in `where` on the files named, or on all."""
    return subprocess.run(
        [sys.executable, root / CHECK, *names],
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_file_is_clean(root: Path) -> None:
    result = check(root, root)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("-----BEGIN PRIVATE " + "KEY-----\n" + "MIGHAgEAMBMGByqGSM49\n", "a private key"),
        ("-----BEGIN EC PRIVATE " + "KEY-----\n" + "MIGHAgEAMBMGByqGSM49\n", "a private key"),
        ("SRTKN-1-" + "a" * 52 + "-" + "b" * 26 + "-" + "c" * 52 + "\n", "a join token"),
        ("index = https://pypi." + "org/simple\n", "registry"),
        ("cd /home/" + "someone/strongroom\n", "machine"),
        ("# TO" + "DO: later\n", "unfinished"),
        ("<<<<<<" + "< ours\n", "merge conflict"),
        ("no end", "newline"),
        ("space \n", "trailing space"),
        ("return\r\n", "carriage"),
    ],
)
def test_bad_file_is_named(root: Path, tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "bad.txt").write_bytes(text.encode())
    (tmp_path / "good.txt").write_text("a line\n")
    result = check(root, tmp_path, "good.txt", "bad.txt")
    assert result.returncode == 1
    assert "bad.txt" in result.stdout
    assert problem in result.stdout
    assert "good.txt" not in result.stdout


def test_long_module_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "long.py").write_text("pass\n" * 401)
    assert "split it" in check(root, tmp_path, "cluster/long.py").stdout


def test_generated_docs_are_current(root: Path) -> None:
    result = subprocess.run(
        [sys.executable, "tools/generate_docs.py", "--check"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
