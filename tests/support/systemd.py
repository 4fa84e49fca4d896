"""A real systemd for units under test: a user's instance, in a mount namespace of its own.

Started by root it applies a unit's walls as the system's does. What a user's instance cannot have
is taken out of the copy of the unit, and named here: its own user and the directories that systemd
makes for it; two settings that some containers refuse, which are tried first; and ProtectHome
and PrivateTmp where the tests' own interpreter lies in such a place.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.running import SCRIPTS, wait_until

PROGRAM: Final = Path("/usr/lib/systemd/systemd")
TRIED_FIRST: Final = ("ProtectKernelLogs=yes", "ProtectKernelTunables=yes")
_TAKEN_OUT: Final = ("User=", "StateDirectory", "RuntimeDirectory", "Condition")
_START: Final = """
mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir -p /run/systemd/system
exec "$0" --user --log-target=console
"""


@dataclass
class UserSystemd:
    """The instance; its units see the mounts of `pid`'s namespace."""

    base: Path
    pid: int

    def install(self, unit: Path, replacing: Mapping[str, str], writable: Path) -> None:
        """Install a copy of a unit, with its programs' places replaced."""
        lines = [one for one in unit.read_text().splitlines() if not one.startswith(_TAKEN_OUT)]
        lines = [one for one in lines if one not in TRIED_FIRST or self._allows(one)]
        if _lies_under("/root", "/home", "/run/user"):
            lines = [one for one in lines if not one.startswith("ProtectHome=")]
        if _lies_under("/tmp", "/var/tmp"):
            lines = [one for one in lines if not one.startswith("PrivateTmp=")]
        text = "\n".join(lines).replace("/opt/strongroom/bin/", f"{SCRIPTS}/")
        for old, new in replacing.items():
            text = text.replace(old, new)
        if "ProtectSystem=" in text:
            text = text.replace("[Service]\n", f"[Service]\nReadWritePaths={writable}\n")
        (self.base / "config" / "systemd" / "user" / unit.name).write_text(text)
        self.ok("systemctl", "--user", "daemon-reload")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the instance's namespace."""
        return subprocess.run(
            ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", *words],
            capture_output=True, text=True, check=False, timeout=120, env=environment(self.base),
        )  # fmt: skip

    def ok(self, *words: str) -> str:
        """Run a command that must succeed, and return what it printed."""
        done = self.run(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def shown(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.ok("systemctl", "--user", "show", "-P", name, unit).strip()

    def _allows(self, setting: str) -> bool:
        words = ("systemd-run", "--user", "--wait", "--quiet", "--pipe", "-p", setting, "true")
        return self.run(*words).returncode == 0


def _lies_under(*places: str) -> bool:
    """Return whether the tests' own interpreter or scripts would be hidden with `places`."""
    programs = (Path(sys.executable).resolve(), SCRIPTS)
    return any(program.is_relative_to(place) for program in programs for place in places)


def environment(base: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(base),
        "XDG_RUNTIME_DIR": str(base / "run"),
        "XDG_CONFIG_HOME": str(base / "config"),
    }


@contextlib.contextmanager
def user_systemd(base: Path) -> Iterator[UserSystemd]:
    """Run an instance over `base`, or skip with the reason."""
    if not PROGRAM.exists() or shutil.which("systemd-run") is None:
        pytest.skip("systemd is not installed")
    (base / "run").mkdir(mode=0o700)
    (base / "config" / "systemd" / "user").mkdir(parents=True)
    log = base / "systemd.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            ["unshare", "--mount", "--cgroup", "sh", "-c", _START, str(PROGRAM)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(base),
        )  # fmt: skip
    try:
        wait_until(
            lambda: child.poll() is not None or (base / "run" / "systemd" / "private").exists(),
            "systemd is up, or has given up",
        )
        instance = UserSystemd(base, child.pid)
        if child.poll() is not None or instance.run("systemctl", "--user", "show").returncode:
            pytest.skip(f"no user's systemd runs here: {log.read_text()[-200:]}")
        yield instance
    finally:
        if child.poll() is None:
            # Its units are stopped by then: it ends itself and what is left.
            child.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(30)
        if child.poll() is None:
            child.kill()
            child.wait(30)
