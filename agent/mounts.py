"""The tmpfs of one service: made, adopted or given; proven; filled; emptied.

Owns the life of a mount and who owns the files in it. With `agent.generations`, which lays the
files out, this is the only place that writes plaintext into files, and it writes to nothing that
`agent.mount_proof` calls insecure. What belongs in a mount is decided by `agent.assignments`.

A *kernel* mount is made by the agent (CAP_SYS_ADMIN): a detached tmpfs, filled, then attached
read-only; the agent keeps a writable clone that no path leads to. A *given* mount is a volume that
somebody else mounted writable for the agent and read-only for the service (no capability needed).
Source: DESIGN section 6, ADR 0009.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from agent import linux
from agent.generations import Generations, PlainFile
from agent.mount_proof import MountProof, prove
from cluster.protocol.checks import Strength
from cluster.protocol.errors import (
    AlreadyExists,
    InvalidReference,
    InvariantViolation,
    MountRefused,
    StorageFull,
)
from cluster.protocol.ids import check_service_name, check_target
from cluster.protocol.secret_bytes import SecretBytes

log = structlog.get_logger()

DEFAULT_FILE_MODE = 0o440

_PATH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SOURCE = "strongroom"


class MountKind(StrEnum):
    """Who made the mount."""

    KERNEL = "kernel"
    GIVEN = "given"


@dataclass(frozen=True, slots=True)
class File:
    """One secret as a file; `uid` and `gid` None: the mount's defaults; `mode`: permission bits."""

    target: str
    value: SecretBytes
    uid: int | None = None
    gid: int | None = None
    mode: int = DEFAULT_FILE_MODE


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whose the files are; `uid` None: the agent's own, which a given volume cannot change."""

    uid: int | None
    gid: int


class ServiceMount:
    """A proven tmpfs for one service's secrets. Not thread-safe: the agent's loop owns it."""

    def __init__(self, kind: MountKind, service: str, path: Path, owner: _Owner) -> None:
        self.kind = kind
        self.service = service
        self.path = path
        self._owner = owner
        self._proof: MountProof | None = None
        self._detached: int | None = None
        self._directory = -1
        self._generations: Generations | None = None

    @classmethod
    def create_kernel(
        cls, root: Path, service: str, uid: int, gid: int, size_bytes: int, inodes: int
    ) -> "ServiceMount":
        """Return a fresh tmpfs for `root/service` that appears there with the first `publish`.

        Raises MountRefused without CAP_SYS_ADMIN, or where only swappable memory can be had;
        AlreadyExists when something is mounted there: adopt it.
        """
        check_service_name(service)
        if not root.exists():
            root.mkdir(parents=True)
            root.chmod(0o711)  # whatever the umask: services pass through it by name
        path = root / service
        path.mkdir(mode=0o500, exist_ok=True)
        if os.path.ismount(path):
            raise AlreadyExists(f"{path} is mounted already; adopt it or unmount it")
        self = cls(MountKind.KERNEL, service, path, _Owner(uid, gid))
        options = {"size": str(size_bytes), "nr_inodes": str(inodes), "mode": "0750"}
        options |= {"uid": str(os.geteuid()), "gid": str(gid)}
        self._detached = _new_tmpfs(f"{_SOURCE}:{service}:{uid}:{gid}", options)
        self._use(os.open(".", _READ_FLAGS, dir_fd=self._detached))
        return self

    @classmethod
    def adopt(cls, root: Path, service: str) -> "ServiceMount":
        """Return the mount an earlier agent made for `service`, unnoticed by the service.

        Raises MountRefused when it is not one of ours, or no longer secure (it is emptied then).
        """
        path = root / service
        owner = _recorded_owner(path, service)
        self = cls(MountKind.KERNEL, service, path, owner)
        self._take_over_attached()
        self._held_generations().adopt()
        log.info("mount.adopted", service=service, held=len(self.held()))
        return self

    @classmethod
    def given(cls, path: Path, service: str) -> "ServiceMount":
        """Return the volume mounted at `path` for `service`: the group of its root gets the files.

        Raises MountRefused unless it is a proven tmpfs that holds nothing unknown.
        """
        try:
            directory = os.open(path, _READ_FLAGS | os.O_NOFOLLOW)
        except OSError as error:
            message = f"{path}: {os.strerror(error.errno or 0).lower()}; mount a tmpfs volume there"
            raise MountRefused(message) from None
        owner = _Owner(None, os.fstat(directory).st_gid)
        self = cls(MountKind.GIVEN, service, path, owner)
        self._use(directory)
        try:
            self._proof = _accepted(prove(directory, str(path)))
            self._held_generations().adopt()
        except BaseException:
            self.close()
            raise
        log.info("mount.given", service=service, strength=self.proof.strength)
        return self

    @property
    def proof(self) -> MountProof:
        """What was proven when the mount was attached, adopted or given."""
        if self._proof is None:
            raise InvariantViolation("a mount is proven with its first publish")
        return self._proof

    def held(self) -> tuple[str, ...]:
        """Return the targets that a service can read now, sorted."""
        return self._held_generations().held()

    def manifest(self) -> bytes | None:
        """Return what `publish` was last given as `manifest`, also after a restart."""
        return self._held_generations().manifest()

    def publish(self, files: Sequence[File], manifest: bytes = b"") -> None:
        """Make `files` the whole set, atomically; targets no longer named vanish.

        `manifest`: kept beside the files, readable by the agent alone; holds no secret.
        Raises InvalidName, InvalidReference, or StorageFull; the old set stands then.
        """
        plain = self._resolved(files)
        mode = self._directory_mode(plain)
        try:
            self._held_generations().publish(plain, manifest, self._owner.gid, mode)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StorageFull(self._full_message()) from None
        if self.kind is MountKind.KERNEL:
            os.fchmod(self._directory, mode)
        if self._detached is not None:
            try:
                self._attach()
            except BaseException:
                # Half attached is no state to go on from: the detached memory goes with us.
                self.close()
                raise
        log.info("mount.published", service=self.service, files=len(plain))

    def sweep(self, now_s: float) -> int:
        """Drop what was superseded a minute ago; return how many generations still wait.

        `now_s`: seconds of any steady clock; call it every few seconds.
        """
        return self._held_generations().sweep(now_s)

    def drop_superseded(self) -> None:
        """Drop superseded generations at once, open readers or not: for what must not linger."""
        self._held_generations().drop_superseded()

    def clear(self) -> None:
        """Overwrite and remove every file, but stay mounted: a later `publish` is seen again."""
        self._held_generations().clear()
        log.info("mount.cleared", service=self.service)

    def revoke(self) -> None:
        """Overwrite and remove every file at once, then take a kernel mount away."""
        try:
            self.clear()
        finally:
            if self.kind is MountKind.KERNEL and self._is_attached():
                linux.unmount(str(self.path), linux.MNT_DETACH)
                with suppress(OSError):
                    self.path.rmdir()
            self.close()
        log.info("mount.revoked", service=self.service)

    def close(self) -> None:
        """Let go of the descriptors; the mount and its files stay for the service."""
        for fd in (self._directory, self._detached):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._directory, self._detached, self._generations = -1, None, None

    def _held_generations(self) -> Generations:
        if self._generations is None:
            raise InvariantViolation("the mount was closed or revoked")
        return self._generations

    def _use(self, directory: int) -> None:
        if self._directory >= 0:
            os.close(self._directory)
        self._directory = directory
        self._generations = Generations(directory)

    def _attach(self) -> None:
        # Read-only before a path leads to it: there is no moment in which a service could write.
        if self._detached is None:
            raise InvariantViolation("only a detached mount is attached")
        linux.set_mount_attributes(self._detached, set_=linux.MOUNT_ATTR_RDONLY)
        target = os.open(self.path, _PATH_FLAGS)
        try:
            linux.attach_mount(self._detached, target)
        finally:
            os.close(target)
        os.close(self._detached)
        self._detached = None
        self._take_over_attached()
        log.info("mount.created", service=self.service, strength=self.proof.strength)

    def _take_over_attached(self) -> None:
        attached = os.open(self.path, _READ_FLAGS | os.O_NOFOLLOW)
        try:
            self._use(_writable_clone(attached))
            self._proof = _accepted(prove(attached, str(self.path)))
        except MountRefused:
            self.revoke()
            raise
        finally:
            os.close(attached)

    def _is_attached(self) -> bool:
        with suppress(OSError):
            return self.path.stat().st_dev == os.fstat(self._directory).st_dev
        return False

    def _resolved(self, files: Sequence[File]) -> list[PlainFile]:
        targets = [check_target(file.target) for file in files]
        if len(set(targets)) != len(targets):
            raise InvalidReference("two references have the same target; give each its own")
        return [self._resolve(file) for file in files]

    def _resolve(self, file: File) -> PlainFile:
        if file.mode & ~0o777:
            raise InvalidReference("a file mode takes the nine permission bits only")
        if self.kind is MountKind.KERNEL:
            uid = self._owner.uid if file.uid is None else file.uid
        elif file.uid is None and file.gid in (None, self._owner.gid):
            uid = None
        else:
            raise InvalidReference(
                f"a given volume has the group {self._owner.gid} and no owner of choice;"
                " leave uid and gid out of the reference"
            )
        gid = self._owner.gid if file.gid is None else file.gid
        return PlainFile(file.target, file.value, uid, gid, file.mode)

    def _directory_mode(self, files: Sequence[PlainFile]) -> int:
        # A file for another uid or gid must be reachable by name; the list stays the service's.
        own = all((file.uid, file.gid) == (self._owner.uid, self._owner.gid) for file in files)
        return 0o750 if own else 0o751

    def _full_message(self) -> str:
        found = os.fstatvfs(self._directory)
        size = f"size={found.f_blocks * found.f_frsize // 1024}k, nr_inodes={found.f_files}"
        return (
            f"the tmpfs of service {self.service} is full ({size}); raise size= or nr_inodes=:"
            " an update needs room for the old and the new files together"
        )


def attached_services(root: Path) -> tuple[str, ...]:
    """Return the services that have a mount of ours under `root`, for `adopt` after a restart."""
    real = root.resolve()
    return tuple(
        sorted(
            {
                Path(entry.mount_point).name
                for entry in linux.mount_table()
                if Path(entry.mount_point).parent == real and entry.source.startswith(f"{_SOURCE}:")
            }
        )
    )


def _new_tmpfs(source: str, options: Mapping[str, str | None]) -> int:
    try:
        return linux.new_tmpfs(source, {**options, "noswap": None}, linux.ATTR_CLOSED)
    except PermissionError:
        raise MountRefused(
            "the agent may not mount (CAP_SYS_ADMIN); grant it, or give the service a volume"
        ) from None
    except OSError:
        if linux.active_swaps():
            raise MountRefused(
                "this kernel has no tmpfs noswap (Linux 6.4) and swap is active; run swapoff"
            ) from None
    return linux.new_tmpfs(source, options, linux.ATTR_CLOSED)


def _writable_clone(attached: int) -> int:
    clone = linux.clone_mount(attached)
    try:
        linux.set_mount_attributes(
            clone, clear=linux.MOUNT_ATTR_RDONLY, propagation=linux.MS_PRIVATE
        )
        return os.open(".", _READ_FLAGS, dir_fd=clone)
    finally:
        os.close(clone)


def _accepted(proof: MountProof) -> MountProof:
    if proof.strength is Strength.INSECURE:
        raise MountRefused(f"{proof.path} is refused: {proof.findings(Strength.INSECURE)}")
    return proof


def _recorded_owner(path: Path, service: str) -> _Owner:
    # The mount source is ours to choose at creation and cannot be changed later, so it is the
    # record that survives the agent.
    try:
        attached = os.open(path, _PATH_FLAGS)
    except OSError:
        raise MountRefused(f"nothing is mounted at {path}; create the mount") from None
    try:
        entry = linux.mount_of(attached)
    finally:
        os.close(attached)
    source = entry.source.split(":") if entry is not None else []
    match source:
        case [kind, name, uid, gid] if (kind, name) == (_SOURCE, service):
            return _Owner(int(uid), int(gid))
        case _:
            raise MountRefused(f"the mount at {path} is not one of ours; unmount it")
