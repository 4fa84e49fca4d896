"""Desired services against mounted ones: which actions, in which order (pure).

Owns the decision and the node's own checks: the managers check names and targets too, but what a
manager sends becomes a path here, so nothing is taken on trust. Must not touch a file. Source:
DESIGN 6.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cluster.protocol.errors import InvalidName
from cluster.protocol.ids import check_service_name, check_target
from cluster.protocol.wire import CERTIFICATE_TARGETS, FileSpec, ServiceAssignment, VersionKey

_PERMISSIONS = 0o777
_HIGHEST_ID = 2**32 - 2


@dataclass(frozen=True, slots=True)
class Remove:
    """Wipe a service's mount and take it away."""

    service: ServiceAssignment


@dataclass(frozen=True, slots=True)
class Publish:
    """Replace the files of a mounted service."""

    service: ServiceAssignment
    changed: bool
    """Whether the files differ; otherwise only what is remembered about them does, and nobody is
    told.
    """


@dataclass(frozen=True, slots=True)
class Mount:
    """Mount a service that is not there yet."""

    service: ServiceAssignment


Action = Remove | Publish | Mount


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order to take them, and the services refused, by id, with a reason."""

    actions: tuple[Action, ...]
    refused: Mapping[str, str]


def version_key(file: FileSpec) -> VersionKey:
    """Return which secret version a file holds."""
    return VersionKey(file.secret_id, file.version)


def plan(
    desired: Iterable[ServiceAssignment],
    mounted: Mapping[str, ServiceAssignment],
    *,
    share_uid: bool,
) -> Plan:
    """Return what turns `mounted` (by service id) into `desired`.

    Removals come first: they free names and uids, and what must go goes even if a later step
    fails. A service that is refused keeps what it has. `share_uid` is for given volumes, where
    files belong to the agent and the volume's group.
    """
    wanted = {service.service_id: service for service in desired}
    refused = {i: fault for i, service in wanted.items() if (fault := find_fault(service))}
    # A refused service keeps its name and uid, which may refuse the next: repeat until nothing is
    # added.
    while clashes := _find_clashes(wanted, mounted, refused, share_uid=share_uid):
        refused |= clashes
    return Plan(_actions(wanted, mounted, refused), refused)


def find_fault(service: ServiceAssignment) -> str:
    """Return why a service cannot be mounted whatever else is there; empty if it can."""
    try:
        check_service_name(service.name)
        for file in service.files:
            check_target(file.target)
    except InvalidName as error:
        return error.message
    targets = [file.target for file in service.files]
    if service.certificate and not set(targets).isdisjoint(CERTIFICATE_TARGETS):
        return "a file has the target of the certificate's; give the reference another"
    if len(set(targets)) != len(targets):
        return "two files share a target; give each reference its own"
    if any(file.mode & ~_PERMISSIONS for file in service.files):
        return "a file mode takes permission bits only"
    owners = [service.uid, service.gid]
    owners += [o for f in service.files for o in (f.uid, f.gid) if o is not None]
    if any(not 0 <= owner <= _HIGHEST_ID for owner in owners):
        return "a uid or gid is out of range"
    return ""


def _find_clashes(
    wanted: Mapping[str, ServiceAssignment],
    mounted: Mapping[str, ServiceAssignment],
    refused: Mapping[str, str],
    *,
    share_uid: bool,
) -> dict[str, str]:
    """Return the services, not refused so far, whose name or uid is another's, with a reason."""
    kept = [mounted[i] for i in refused if i in mounted]
    names = {service.name for service in kept}
    uids = {service.uid for service in kept}
    clashes: dict[str, str] = {}
    # Who is mounted already goes first; after that the order of ids decides.
    for service_id in sorted(wanted.keys() - refused.keys(), key=lambda i: (i not in mounted, i)):
        service = wanted[service_id]
        if service.name in names:
            clashes[service_id] = "another service on this node has the same name"
        elif service.uid in uids and not share_uid:
            clashes[service_id] = (
                "another service on this node has the same uid; give each service its own"
            )
        else:
            names.add(service.name)
            uids.add(service.uid)
    return clashes


def _actions(
    wanted: Mapping[str, ServiceAssignment],
    mounted: Mapping[str, ServiceAssignment],
    refused: Mapping[str, str],
) -> tuple[Action, ...]:
    removals: list[Action] = []
    publications: list[Action] = []
    mounts: list[Action] = []
    for service_id, old in sorted(mounted.items()):
        new = wanted.get(service_id)
        if new is None:
            removals.append(Remove(old))
        elif service_id in refused or new == old:
            continue
        elif _owner(new) != _owner(old):
            # Directory, socket and file owners all change: an own mount is clearer than a half-
            # changed one.
            removals.append(Remove(old))
            mounts.append(Mount(new))
        else:
            publications.append(Publish(new, changed=_files(new) != _files(old)))
    mounts += [
        Mount(service)
        for service_id, service in sorted(wanted.items())
        if service_id not in mounted and service_id not in refused
    ]
    return (*removals, *publications, *mounts)


def _owner(service: ServiceAssignment) -> tuple[str, int, int]:
    return (service.name, service.uid, service.gid)


def _files(service: ServiceAssignment) -> tuple[frozenset[FileSpec], bool]:
    return frozenset(service.files), service.certificate
