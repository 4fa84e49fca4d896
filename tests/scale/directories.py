"""The fleet's one tmpfs, and directories of it in the place of each service's own mount.

A mount a service and agent would be thousands, and every one makes the kernel's table of mounts
longer for all. So an agent of the fleet has *given* volumes that are directories of one tmpfs,
which is proven once. All else is the agent's own code: plans, generations, swaps, wipes.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from agent import linux
from agent.config import AgentConfig
from agent.mount_proof import MountProof, prove
from agent.mount_table import MountTable, Outcome
from agent.mounts import MountKind, ServiceMount, _accepted, _Owner
from agent.service_set import read_manifest
from cluster.pki.node_envelope import NodeKeys, SealedValue
from cluster.protocol.wire import ServiceAssignment, VersionKey

SWEEP_EVERY_S: Final = 5.0
"""An agent of its own looks twice a second; thousands in one process need not."""
PREFIX: Final = "sr-fleet-"
"""Of a fleet's directory; the process id that owns it follows."""
MOUNT: Final = "m"
"""Below it: the tmpfs. Short, because a unix socket's path takes 107 bytes."""
_OPTIONS: Final = {"size": "4g", "nr_inodes": "4000000", "mode": "0700"}
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def mounted_tmpfs(path: Path) -> Iterator[MountProof]:
    """Mount a tmpfs at `path`, prove it as the agent would, and take it away afterwards."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        made = linux.new_tmpfs("fleet", {**_OPTIONS, "noswap": None}, linux.ATTR_CLOSED)
    except PermissionError:
        raise
    except OSError:  # before Linux 6.4
        made = linux.new_tmpfs("fleet", _OPTIONS, linux.ATTR_CLOSED)
    target = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        linux.attach_mount(made, target)
    finally:
        os.close(target)
        os.close(made)
    try:
        directory = os.open(path, _DIRECTORY_FLAGS)
        try:
            proof = _accepted(prove(directory, str(path)))
        finally:
            os.close(directory)
        yield proof
    finally:
        linux.unmount(str(path), linux.MNT_DETACH)
        path.rmdir()


def remove_abandoned(parent: Path) -> None:
    """Take away what fleets left that were killed: memory that nobody would give back."""
    for base in parent.glob(f"{PREFIX}*-*"):
        owner = base.name.removeprefix(PREFIX).partition("-")[0]
        if not owner.isdecimal() or Path(f"/proc/{owner}").exists():
            continue
        with suppress(OSError):
            linux.unmount(str(base / MOUNT), linux.MNT_DETACH)
        shutil.rmtree(base, ignore_errors=True)


class DirectoryMount(ServiceMount):
    """A directory of the fleet's tmpfs, used as a given volume is."""

    @classmethod
    def of(cls, path: Path, service: str, proof: MountProof) -> "DirectoryMount":
        """Return the volume of a service, made if it is not there."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(path, _DIRECTORY_FLAGS)
        self = cls(MountKind.GIVEN, service, path, _Owner(None, os.fstat(directory).st_gid))
        self._use(directory)
        self._proof = proof
        self._held_generations().adopt()
        return self


class DirectoryTable(MountTable):
    """An agent's mount table over directories of the fleet's tmpfs."""

    def __init__(self, config: AgentConfig, proof: MountProof, written: Callable[[], None]) -> None:
        """`written`: called when files were written, before anything is acknowledged."""
        super().__init__(config)
        self._fleet_proof = proof
        self._written = written
        self._sweep_at_s = 0.0
        config.mount_root.mkdir(parents=True, exist_ok=True)

    def apply(
        self,
        desired: Iterable[ServiceAssignment],
        values: Mapping[VersionKey, SealedValue],
        keys: NodeKeys,
    ) -> Outcome:
        outcome = super().apply(desired, values, keys)
        self._written()
        return outcome

    def sweep(self, now_s: float) -> None:
        if now_s >= self._sweep_at_s:
            self._sweep_at_s = now_s + SWEEP_EVERY_S
            super().sweep(now_s)

    def _new_mount(self, service: ServiceAssignment) -> ServiceMount:
        return self._directory(service.name)

    def _adopt_one(self, name: str) -> None:
        mount = self._directory(name)
        service = read_manifest(mount)
        if service is None:
            mount.revoke()
        else:
            self._keep(service, mount)

    def _directory(self, name: str) -> DirectoryMount:
        return DirectoryMount.of(self._config.mount_root / name, name, self._fleet_proof)

    def _keep(self, service: ServiceAssignment, mount: ServiceMount) -> None:
        from agent.mount_table import _Entry

        self._entries[service.service_id] = _Entry(service, mount)
