"""A set of secret files in one directory, replaced as a whole.

    target      -> ..data/target          one symlink a target, never rewritten
    ..data      -> ..7                    the one rename that makes a new set visible
    ..7/target                            the files; ..7/..manifest says what they are
    ..6/                                  superseded, kept a while for readers that have it open

With `agent.mounts` this is the only place that writes plaintext into files. It trusts nothing
about the filesystem: `agent.mounts` proves the mount first. Only the agent may change the
directory (proven too), so names found by `lstat` cannot be swapped for symlinks afterwards.
Everything that can run out of space comes before the rename, so a set is published whole or not
at all. Source: the layout of Kubernetes' AtomicWriter.
"""

import os
import re
import stat
from collections.abc import Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from cluster.protocol.errors import InvalidReference, MountRefused
from cluster.protocol.secret_bytes import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPERSEDED_AGE_S = 60.0
"""How long a superseded generation stays for readers that opened it before the swap."""

_CURRENT = "..data"
_NEXT = "..data.new"
_MANIFEST = "..manifest"
_GENERATION = re.compile(r"\.\.([1-9][0-9]*)")
_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class PlainFile(NamedTuple):
    """A file with its ownership decided: `uid` None leaves the owner, a `gid` is always met."""

    target: str
    value: SecretBytes
    uid: int | None
    gid: int
    mode: int


class Generations:
    """The generations in one directory, given by descriptor (rewritable, owned by the agent)."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._superseded_since_s: dict[str, float] = {}

    def adopt(self) -> None:
        """Take over what an earlier agent left and drop what it never published.

        Raises MountRefused when there is anything that an agent does not write: another program
        planted it, or this directory serves another purpose.
        """
        unknown = [name for name in _names(self._directory) if not self._is_ours(name)]
        if unknown:
            names = ", ".join(sorted(map(repr, unknown))[:5])
            raise MountRefused(f"the mount holds unknown entries ({names}); remove them")
        with suppress(FileNotFoundError):
            os.unlink(_NEXT, dir_fd=self._directory)
        current = self.current()
        newest = _number(current) if current else 0
        for name in self._all():
            if _number(name) > newest:
                self._drop(name)
        self._remove_links(keep=self.held())

    def current(self) -> str | None:
        """Return the name of the published generation."""
        try:
            return os.readlink(_CURRENT, dir_fd=self._directory)
        except FileNotFoundError:
            return None

    def held(self) -> tuple[str, ...]:
        """Return the targets of the published set, sorted."""
        current = self.current()
        if current is None:
            return ()
        with self._opened(current) as generation:
            return tuple(sorted(set(_names(generation)) - {_MANIFEST}))

    def manifest(self) -> bytes | None:
        """Return the manifest published with the current set."""
        current = self.current()
        if current is None:
            return None
        with self._opened(current) as generation:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(_MANIFEST, flags, dir_fd=generation), "rb") as file:
                return file.read()

    def publish(
        self, files: Sequence[PlainFile], manifest: bytes, group: int, directory_mode: int
    ) -> None:
        """Replace the set; on any failure the old set stands and nothing of the new one remains."""
        name = f"..{max((_number(name) for name in self._all()), default=0) + 1}"
        targets = [file.target for file in files]
        before = set(self._links())
        try:
            self._build(name, files, manifest, group, directory_mode)
            self._add_links(set(targets) - before)
            os.symlink(name, _NEXT, dir_fd=self._directory)
            os.rename(_NEXT, _CURRENT, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except BaseException:
            self._remove_links(keep=before)
            self._drop(name)
            raise
        self._remove_links(keep=targets)

    def sweep(self, now_s: float) -> int:
        """Drop generations seen superseded for a minute; return how many are still waiting.

        `now_s`: any steady count of seconds. A generation's minute begins at the first sweep that
        finds it superseded, so it is never cut short by a restart.
        """
        current = self.current()
        since = {
            name: self._superseded_since_s.get(name, now_s)
            for name in self._all()
            if name != current
        }
        for name in [name for name, start in since.items() if now_s - start >= SUPERSEDED_AGE_S]:
            self._drop(name)
            del since[name]
        self._superseded_since_s = since
        return len(since)

    def drop_superseded(self) -> None:
        """Drop every generation but the current one at once, open readers or not."""
        current = self.current()
        self._drop_all([name for name in self._all() if name != current])

    def clear(self) -> None:
        """Overwrite and remove every file of every generation, at once.

        Goes on after a failure and raises it at the end: one stubborn file must not save the rest.
        """
        with suppress(FileNotFoundError):
            os.unlink(_CURRENT, dir_fd=self._directory)
        self._remove_links(keep=())
        self._drop_all(self._all())

    def _drop_all(self, names: Iterable[str]) -> None:
        failures: list[OSError] = []
        for name in names:
            try:
                self._drop(name)
            except OSError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _is_ours(self, name: str) -> bool:
        found = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        if found.st_uid != os.geteuid():
            return False
        if stat.S_ISLNK(found.st_mode):
            points_to = os.readlink(name, dir_fd=self._directory)
            if name in (_CURRENT, _NEXT):
                return _GENERATION.fullmatch(points_to) is not None
            return points_to == f"{_CURRENT}/{name}"
        return stat.S_ISDIR(found.st_mode) and _GENERATION.fullmatch(name) is not None

    def _all(self) -> list[str]:
        return [name for name in _names(self._directory) if _GENERATION.fullmatch(name)]

    def _links(self) -> list[str]:
        return [name for name in _names(self._directory) if not name.startswith("..")]

    @contextmanager
    def _opened(self, name: str) -> "Iterator[int]":
        generation = os.open(name, _DIRECTORY_FLAGS, dir_fd=self._directory)
        try:
            yield generation
        finally:
            os.close(generation)

    def _build(
        self, name: str, files: Sequence[PlainFile], manifest: bytes, group: int, mode: int
    ) -> None:
        os.mkdir(name, 0o700, dir_fd=self._directory)
        with self._opened(name) as generation:
            for file in files:
                _write(generation, file)
            _write_bytes(generation, _MANIFEST, manifest, 0o400)
            _set_group(generation, group)
            # Last: chmod by an agent outside the group drops the setgid bit that gave the files
            # their group.
            os.fchmod(generation, mode)

    def _add_links(self, targets: Iterable[str]) -> None:
        for target in targets:
            os.symlink(f"{_CURRENT}/{target}", target, dir_fd=self._directory)

    def _remove_links(self, keep: Iterable[str]) -> None:
        for name in set(self._links()) - set(keep):
            os.unlink(name, dir_fd=self._directory)

    def _drop(self, name: str) -> None:
        try:
            with self._opened(name) as generation:
                os.fchmod(generation, 0o700)
                for entry in _names(generation):
                    _overwrite(generation, entry)
                    os.unlink(entry, dir_fd=generation)
            os.rmdir(name, dir_fd=self._directory)
        except FileNotFoundError:
            return


def _names(directory: int) -> list[str]:
    return os.listdir(directory)


def _number(generation: str) -> int:
    return int(generation.removeprefix(".."))


def _write(generation: int, file: PlainFile) -> None:
    fd = os.open(file.target, _CREATE_FLAGS, 0o600, dir_fd=generation)
    try:
        _write_all(fd, file.value.reveal())
        if file.uid is not None:
            os.fchown(fd, file.uid, file.gid)
        _set_group(fd, file.gid)
        os.fchmod(fd, file.mode)
    finally:
        os.close(fd)


def _write_bytes(generation: int, name: str, content: bytes, mode: int) -> None:
    fd = os.open(name, _CREATE_FLAGS, mode, dir_fd=generation)
    try:
        _write_all(fd, content)
    finally:
        os.close(fd)


def _write_all(fd: int, content: bytes) -> None:
    # A nearly full tmpfs takes a part before it says ENOSPC.
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _set_group(fd: int, group: int) -> None:
    if os.fstat(fd).st_gid == group:
        return
    try:
        os.fchown(fd, -1, group)
    except PermissionError:
        message = f"cannot give files to group {group}; mount the volume with mode=2750"
        raise InvalidReference(message) from None


def _overwrite(generation: int, name: str) -> None:
    # Freed tmpfs pages are not zeroed by default kernels, and open readers keep the pages.
    found = os.stat(name, dir_fd=generation, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        return
    os.chmod(name, 0o600, dir_fd=generation)
    fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=generation)
    try:
        _write_all(fd, bytes(found.st_size))
    finally:
        os.close(fd)
