"""The hook directory: which hooks there are, and whether they can be trusted to be what root put
there.

A hook `NAME` is the program `NAME` or the description `NAME.toml` of an HTTPS endpoint, never both.
Everything on the way to it must belong to root or to the manager's user and be writable by nobody
else, because whoever replaces a hook is given credentials. Source: DESIGN 6.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cluster.hook.contract import HookCall
from cluster.hook.endpoint import post, read_endpoint
from cluster.hook.ownership import check_mode, check_owned, check_owner
from cluster.hook.program import run_program
from cluster.protocol.errors import HookFailed, InvalidName
from cluster.protocol.ids import check_name

DESCRIPTION: Final = ".toml"

HookKind = Literal["program", "https"]


@dataclass(frozen=True, slots=True)
class FoundHook:
    """A hook as it lies in the directory."""

    name: str
    kind: HookKind
    path: Path


@dataclass(frozen=True, slots=True)
class HookDirectory:
    """The hooks of this manager; without a directory there are none."""

    path: Path | None = None
    timeout_s: float = 30.0
    """For one call, however the hook is reached."""

    def check(self, name: str) -> None:
        """Raise HookFailed, saying why, unless there is a usable hook of this name."""
        found = self._find(name)
        if found.kind == "https":
            read_endpoint(found.path)

    async def call(self, name: str, call: HookCall) -> None:
        """Call a hook; one that hangs is ended after `timeout_s`. Raises HookFailed."""
        found = self._find(name)
        if found.kind == "program":
            await run_program(found.path, call.encode(), self.timeout_s)
        else:
            await post(read_endpoint(found.path), call, self.timeout_s)

    def listed(self) -> list[tuple[str, str, str]]:
        """Return name, kind and what is wrong (or "") of everything in the directory."""
        if self.path is None:
            return []
        try:
            names = sorted({entry.removesuffix(DESCRIPTION) for entry in os.listdir(self.path)})  # noqa: PTH208  # names, not paths
        except OSError as error:
            raise HookFailed(f"the hook directory cannot be read: {error.strerror}") from None
        return [self._described(name) for name in names]

    def _described(self, name: str) -> tuple[str, str, str]:
        kind = ""
        try:
            kind = self._find(name).kind
            self.check(name)
        except HookFailed as error:
            return name, kind, error.message
        return name, kind, ""

    def _find(self, name: str) -> FoundHook:
        if self.path is None:
            raise HookFailed(
                "this manager has no hook directory; set hook_directory in its configuration"
            )
        _check_hook_name(name)
        program, description = self.path / name, self.path / f"{name}{DESCRIPTION}"
        present = [path for path in (program, description) if os.path.lexists(path)]
        if not present:
            raise HookFailed(f"there is no hook {name!r} in this manager's hook directory")
        if len(present) > 1:
            raise HookFailed(
                f"hook {name!r} is there twice, as a program and as a description; remove one"
            )
        _check_way(self.path)
        _check_file(present[0], name, executable=present[0] == program)
        return FoundHook(name, "program" if present[0] == program else "https", present[0])


def _check_hook_name(name: str) -> None:
    try:
        check_name(name)
    except InvalidName:
        raise HookFailed("a hook is named by its file's name, without a path") from None
    if name.endswith(DESCRIPTION):
        raise HookFailed(f"a hook is named without {DESCRIPTION}")


def _check_way(directory: Path) -> None:
    """Refuse a directory that somebody else could exchange, or whose content he could."""
    if not directory.is_absolute():
        raise HookFailed("hook_directory takes an absolute path")
    for part in (directory, *directory.parents):
        try:
            found = part.lstat()
        except OSError as error:
            raise HookFailed(f"the hook directory cannot be read: {error.strerror}") from None
        if not stat.S_ISDIR(found.st_mode):
            raise HookFailed("the hook directory, or one above it, is a link or no directory")
        if part != directory and found.st_mode & stat.S_ISVTX:
            # As /tmp: others may add to it, and cannot rename what is ours.
            check_owner(found, "a directory above the hook directory")
            continue
        check_mode(found, "the hook directory, or one above it,")


def _check_file(path: Path, name: str, *, executable: bool) -> None:
    found = check_owned(path, f"hook {name!r}")
    if executable and not found.st_mode & stat.S_IXUSR:
        raise HookFailed(f"hook {name!r} is not executable; run `chmod 0755` on it")
