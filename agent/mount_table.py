"""The mounts of one node: carries out plans, and remembers what is mounted where.

Owns the order in which values are fetched and mounts change; what should be there is decided by
`agent.assignments`, how a file gets into a tmpfs by `agent.mounts`. What it knows of a mount
rests in the mount itself, as its manifest. Source: DESIGN 6.
"""

import os
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from agent import linux
from agent.assignments import Action, Mount, Publish, Remove, plan, version_key
from agent.certificate_files import StagedCertificates, read_certificate, wipe
from agent.certificates import CertificateFiles
from agent.config import AgentConfig
from agent.mounts import MountKind, ServiceMount, attached_services
from agent.service_set import publish_set, read_manifest
from agent.values_at_hand import ValuesAtHand
from cluster.pki.node_envelope import NodeKeys, SealedValue
from cluster.protocol.checks import Strength
from cluster.protocol.errors import ClusterError, MountRefused
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import FileSpec, ServiceAssignment, ServiceResult, VersionKey

log = structlog.get_logger(__name__)

_STRENGTHS = (Strength.SECURE, Strength.WEAK, Strength.INSECURE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a set of assignments."""

    results: tuple[ServiceResult, ...]
    dropped: tuple[str, ...]
    changed: tuple[ServiceAssignment, ...]
    """Services that had files before and have others now."""
    unopened: tuple[VersionKey, ...] = ()
    """Versions whose envelope did not open."""


@dataclass(slots=True)
class _Entry:
    service: ServiceAssignment
    mount: ServiceMount


class MountTable:
    """Every mount this agent keeps. Belongs to the agent's loop; nothing here waits."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._entries: dict[str, _Entry] = {}
        self._staged = StagedCertificates()
        self.certificate_faults: dict[str, str] = {}
        """Why services do not get their first or next certificate, by service id."""
        self._strength = Strength.SECURE

    @property
    def mounted(self) -> Mapping[str, ServiceAssignment]:
        """What is in place, by service id."""
        return {service_id: entry.service for service_id, entry in self._entries.items()}

    def probe(self) -> Strength:
        """Return how well mounts can be protected here; raises MountRefused if not at all."""
        found = Strength.SECURE if self._shares_uids() else _probe_kernel()
        return max(found, self._strength, key=_STRENGTHS.index)

    def adopt(self) -> None:
        """Take over what an earlier agent left, unnoticed by the services; empty what is not
        understood.
        """
        for name in self._left_behind():
            try:
                self._adopt_one(name)
            except (ClusterError, OSError) as error:
                log.warning("mount.not_adopted", service=name, reason=_short(error))

    def apply(
        self,
        desired: Iterable[ServiceAssignment],
        values: Mapping[VersionKey, SealedValue],
        keys: NodeKeys,
    ) -> Outcome:
        """Make the mounts match `desired`; a service that fails keeps what it has and gets an
        error.
        """
        wanted = {service.service_id: service for service in desired}
        self._staged.keep_only(wanted.keys())
        certified = {i for i, service in wanted.items() if service.certificate}
        for gone in self.certificate_faults.keys() - certified:
            del self.certificate_faults[gone]
        waiting = {i for i, service in wanted.items() if self._awaits_certificate(service)}
        made = plan(self._plannable(wanted, waiting), self.mounted, share_uid=self._shares_uids())
        errors = dict(made.refused)
        errors |= {i: self.certificate_faults[i] for i in waiting & self.certificate_faults.keys()}
        # Before anything is removed: a value may rest in the very mount that goes.
        resting = self._read_missing(made.actions, values.keys())
        certificates = self._certificates_at_hand(made.actions)
        dropped: list[str] = []
        changed: list[ServiceAssignment] = []
        with keys.opening() as open_value:
            at_hand = ValuesAtHand(values, open_value, resting)
            for action in made.actions:
                service_id = action.service.service_id
                try:
                    self._carry_out(action, at_hand, certificates.get(service_id, {}))
                except (ClusterError, OSError) as error:
                    errors[service_id] = reason = _short(error)
                    log.warning("mount.failed", service=action.service.name, reason=reason)
                    continue
                if isinstance(action, Remove) and service_id not in wanted:
                    dropped.append(service_id)
                if isinstance(action, Publish) and action.changed:
                    changed.append(action.service)
        for value in resting.values():
            value.wipe()
        for service_id, files in certificates.items():
            if service_id not in self._staged:
                wipe(files)
        # What waits and is not there yet is reported once it is there, or cannot be.
        shown = {i: s for i, s in wanted.items() if i not in waiting or self._is_told(i, errors)}
        touched = [*shown, *(i for i in errors if i not in wanted)]
        results = tuple(
            self._result(i, self._reported(i, wanted, waiting), errors) for i in touched
        )
        return Outcome(results, tuple(dropped), tuple(changed), at_hand.unopened)

    def wipe_lapsed(self, services: Iterable[ServiceAssignment]) -> None:
        """Reduce each service to the files given, at once: no reader keeps an older generation."""
        for service in services:
            entry = self._entries.get(service.service_id)
            if entry is None:
                continue
            kept = {file.target for file in service.files}
            files = tuple(file for file in entry.service.files if file.target in kept)
            self._reduce(entry, msgspec.structs.replace(entry.service, files=files))

    def wipe_all(self) -> None:
        """Wipe and take away every mount; goes on after a failure and raises it at the end."""
        failures: list[Exception] = []
        self._staged.keep_only(())
        self.certificate_faults.clear()
        for service_id in list(self._entries):
            try:
                self._entries.pop(service_id).mount.revoke()
            except OSError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def stage_certificate(self, service_id: str, files: CertificateFiles) -> None:
        """Keep a service's new certificate until it is published."""
        self._staged.stage(service_id, files)

    def renew_certificate(self, service_id: str) -> ServiceAssignment | None:
        """Swap the staged certificate in beside the files that are there; return the service.

        None: the service has no certificate in place, so that `apply` publishes its first one.
        Raises ClusterError or OSError if it cannot be published; the set before stands.
        """
        entry = self._entries.get(service_id)
        files = self._staged.get(service_id)
        if entry is None or files is None or not entry.service.certificate:
            return None
        values = {version_key(f): self.read(service_id, f) for f in entry.service.files}
        try:
            publish_set(entry.mount, entry.service, values, files)
        finally:
            for value in values.values():
                value.wipe()
            self._staged.settle(service_id)
        return entry.service

    def sweep(self, now_s: float) -> None:
        """Drop generations superseded long enough ago; `now_s`: a steady count of seconds."""
        for entry in self._entries.values():
            entry.mount.sweep(now_s)

    def read(self, service_id: str, file: FileSpec) -> SecretBytes:
        """Return the value of a mounted file. Raises OSError if it is not there."""
        return SecretBytes((self._entries[service_id].mount.path / file.target).read_bytes())

    def path_of(self, service_id: str) -> Path:
        """Return where a mounted service's files are."""
        return self._entries[service_id].mount.path

    def close(self) -> None:
        """Let go of the mounts; they stay for the services."""
        for entry in self._entries.values():
            entry.mount.close()
        self._entries.clear()

    # --- carrying out ---------------------------------------------------------------------------

    def _carry_out(
        self, action: Action, at_hand: ValuesAtHand, certificate: CertificateFiles
    ) -> None:
        match action:
            case Remove(service):
                entry = self._entries[service.service_id]
                entry.mount.revoke()
                del self._entries[service.service_id]
                return
            case Publish(service):
                entry = self._entries[service.service_id]
                with at_hand.of(service.files) as values:
                    publish_set(entry.mount, service, values, certificate)
                entry.service = service
            case Mount(service):
                self._mount(service, at_hand, certificate)
        self._staged.settle(service.service_id)

    def _mount(
        self, service: ServiceAssignment, at_hand: ValuesAtHand, certificate: CertificateFiles
    ) -> None:
        mount = self._new_mount(service)
        try:
            with at_hand.of(service.files) as values:
                publish_set(mount, service, values, certificate)
        except BaseException:
            mount.close()
            raise
        self._entries[service.service_id] = _Entry(service, mount)

    def _new_mount(self, service: ServiceAssignment) -> ServiceMount:
        root = self._config.mount_root
        if self._config.mounts is MountKind.GIVEN:
            return ServiceMount.given(root / service.name, service.name)
        return ServiceMount.create_kernel(
            root,
            service.name,
            service.uid,
            service.gid,
            self._config.size_bytes,
            self._config.inodes,
        )

    def _reduce(self, entry: _Entry, service: ServiceAssignment) -> None:
        try:
            values = {version_key(f): self.read(service.service_id, f) for f in service.files}
            certificate = read_certificate(entry.mount.path) if service.certificate else {}
            publish_set(entry.mount, service, values, certificate)
            entry.mount.drop_superseded()
        except (ClusterError, OSError) as error:
            # What must go goes, even at the price of what could stay.
            log.warning("mount.cleared_whole", service=service.name, reason=_short(error))
            entry.mount.clear()
            service = msgspec.structs.replace(service, files=(), certificate=False)
        entry.service = service

    def _awaits_certificate(self, service: ServiceAssignment) -> bool:
        """Return whether a service cannot be published yet: it never sees half of its set."""
        entry = self._entries.get(service.service_id)
        in_place = entry is not None and entry.service.certificate
        return service.certificate and not in_place and service.service_id not in self._staged

    def _plannable(
        self, wanted: Mapping[str, ServiceAssignment], waiting: AbstractSet[str]
    ) -> list[ServiceAssignment]:
        """Return what can be brought about now; what waits keeps what it has."""
        kept = [self._entries[i].service for i in waiting if i in self._entries]
        return [*(s for i, s in wanted.items() if i not in waiting), *kept]

    def _certificates_at_hand(self, actions: Iterable[Action]) -> dict[str, CertificateFiles]:
        """Return the sets to publish: the staged one of a service, else what its mount holds."""
        found: dict[str, CertificateFiles] = {}
        for action in actions:
            service_id = action.service.service_id
            if isinstance(action, Remove) or not action.service.certificate:
                continue
            staged, entry = self._staged.get(service_id), self._entries.get(service_id)
            if staged is not None:
                found[service_id] = staged
            elif entry is not None:
                with suppress(OSError):  # then the publication is refused
                    found[service_id] = read_certificate(entry.mount.path)
        return found

    def _is_told(self, service_id: str, errors: Mapping[str, str]) -> bool:
        return service_id in self._entries or service_id in errors

    def _reported(
        self, service_id: str, wanted: Mapping[str, ServiceAssignment], waiting: AbstractSet[str]
    ) -> ServiceAssignment | None:
        """Return the assignment a result reports on: of what waits, the one still in place."""
        if service_id in waiting and service_id in self._entries:
            return self._entries[service_id].service
        return wanted.get(service_id)

    def _read_missing(
        self, actions: Iterable[Action], sent: AbstractSet[VersionKey]
    ) -> dict[VersionKey, SecretBytes]:
        """Return the values that were not sent because a mount of ours has them."""
        needed = {
            version_key(file)
            for action in actions
            if not isinstance(action, Remove)
            for file in action.service.files
        } - sent
        found: dict[VersionKey, SecretBytes] = {}
        for service_id, entry in self._entries.items():
            for file in entry.service.files:
                key = version_key(file)
                if key in needed and key not in found:
                    with suppress(OSError):  # then it counts as not there, and is asked for
                        found[key] = self.read(service_id, file)
        return found

    def _result(
        self, service_id: str, wanted: ServiceAssignment | None, errors: Mapping[str, str]
    ) -> ServiceResult:
        entry = self._entries.get(service_id)
        files = entry.service.files if entry is not None else ()
        mounted = tuple(
            sorted({version_key(f) for f in files}, key=lambda k: (k.secret_id, k.version))
        )
        # The number it reports on, also where the change left the files as they were.
        spec_number = wanted.spec_number if wanted is not None else 0
        return ServiceResult(service_id, mounted, errors.get(service_id, ""), spec_number)

    # --- adopting -------------------------------------------------------------------------------

    def _left_behind(self) -> tuple[str, ...]:
        root = self._config.mount_root
        if self._config.mounts is MountKind.KERNEL:
            return attached_services(root)
        return tuple(sorted(path.name for path in root.iterdir() if path.is_dir()))

    def _adopt_one(self, name: str) -> None:
        root = self._config.mount_root
        given = self._config.mounts is MountKind.GIVEN
        mount = ServiceMount.given(root / name, name) if given else ServiceMount.adopt(root, name)
        self._strength = max(self._strength, mount.proof.strength, key=_STRENGTHS.index)
        service = read_manifest(mount)
        if service is not None and service.name == name and service.service_id not in self._entries:
            self._entries[service.service_id] = _Entry(service, mount)
            return
        mount.revoke()

    def _shares_uids(self) -> bool:
        # On a given volume files belong to the agent; the volume keeps services apart, not the uid.
        return self._config.mounts is MountKind.GIVEN


def _probe_kernel() -> Strength:
    """Make a tmpfs that no path leads to, and let it go again."""
    try:
        os.close(linux.new_tmpfs("strongroom-probe", {"noswap": None}, linux.ATTR_CLOSED))
    except PermissionError:
        raise MountRefused(
            "the agent may not mount (CAP_SYS_ADMIN); grant it, or use --mounts given"
        ) from None
    except OSError:
        # No noswap here: `agent.mounts` refuses if there is swap, and calls it weak otherwise.
        return Strength.WEAK
    return Strength.SECURE


def _short(error: Exception) -> str:
    """Return an error for a person, without anything but names and numbers in it."""
    if isinstance(error, ClusterError):
        return error.message
    return (getattr(error, "strerror", None) or type(error).__name__).lower()
