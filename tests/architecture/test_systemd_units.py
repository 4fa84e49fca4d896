"""The units for systemd: it reads them, finds them closed, and what they start exists."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.docs_commands import commands

UNITS = ("strongroom-manager.service", "strongroom-agent.service")
EXPOSURE = {"strongroom-manager.service": 2.0, "strongroom-agent.service": 6.5}
"""What systemd makes of the settings, from 0 to 10. The agent mounts for the whole machine, so all
that would give it a mount namespace of its own is missing, and counted against it."""
NAMESPACED = re.compile(
    r"^(Protect(System|Home|Kernel\w+|ControlGroups|Clock|Proc)|Private(Tmp|Devices|Mounts|Users)"
    r"|ReadOnlyPaths|ReadWritePaths|InaccessiblePaths|TemporaryFileSystem|Bind\w*Paths|RootDirectory"
    r"|MountFlags|ProcSubset|RuntimeDirectory|DynamicUser)=",
    re.MULTILINE,
)
systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)


def unit(root: Path, name: str) -> str:
    return (root / "packaging" / "systemd" / name).read_text()


def installed(root: Path, name: str, directory: Path) -> Path:
    """Return a copy whose programs exist: as if the package were installed where it says."""
    copy = directory / name
    copy.write_text(unit(root, name).replace("/opt/strongroom/bin/", f"{shutil.which('true')} "))
    return copy


@systemd
@pytest.mark.parametrize("name", UNITS)
def test_systemd_reads_the_unit_without_a_word(root: Path, name: str, tmp_path: Path) -> None:
    copy = installed(root, name, tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    # It tells of other units of this machine as well.
    assert name not in done.stderr


@systemd
@pytest.mark.parametrize("name", UNITS)
def test_the_unit_is_as_closed_as_it_was(root: Path, name: str, tmp_path: Path) -> None:
    copy = installed(root, name, tmp_path)
    threshold = str(int(EXPOSURE[name] * 10))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", str(copy)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd judges no unit that is not loaded (250 does)")
    assert done.returncode == 0, done.stdout[-300:]


def test_the_agent_shares_the_mounts_of_its_machine(root: Path) -> None:
    """In a mount namespace of its own nobody would see what it mounts."""
    assert NAMESPACED.search(unit(root, "strongroom-agent.service")) is None
    assert NAMESPACED.search(unit(root, "strongroom-manager.service")) is not None


@pytest.mark.parametrize("name", UNITS)
def test_memory_reaches_no_disk(root: Path, name: str) -> None:
    lines = unit(root, name).splitlines()
    assert {"LimitMEMLOCK=infinity", "MemorySwapMax=0", "NoNewPrivileges=yes"} <= set(lines)
    (core,) = [line for line in lines if line.startswith("LimitCORE=")]
    assert core in {"LimitCORE=0", "LimitCORE=0:1"}


@pytest.mark.parametrize("name", UNITS)
def test_what_it_starts_is_a_command(root: Path, name: str) -> None:
    (started,) = re.findall(r"^ExecStart=/opt/strongroom/bin/(.*)$", unit(root, name), re.MULTILINE)
    command = started.partition(" --")[0]
    assert command in commands()
