"""One service's set of files: secrets, certificate, and the manifest that says what they are.

Owns how an assignment becomes files and is known again after a restart. A set is published whole or
not at all. What belongs in it is decided elsewhere. Source: DESIGN 6.
"""

from collections.abc import Mapping

import msgspec

from agent.assignments import version_key
from agent.certificates import CertificateFiles
from agent.mounts import File, ServiceMount
from cluster.protocol.errors import MountRefused, StorageFull
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.undecodable import UNDECODABLE
from cluster.protocol.wire import ServiceAssignment, VersionKey


def publish_set(
    mount: ServiceMount,
    service: ServiceAssignment,
    values: Mapping[VersionKey, SecretBytes],
    certificate: CertificateFiles,
) -> None:
    """Make a service's files the whole set, atomically.

    Raises MountRefused without its certificate, and what `ServiceMount.publish` raises; the set
    before stands.
    """
    if service.certificate and not certificate:
        raise MountRefused("the service's certificate is not there; it is asked for again")
    files = [File(target, content) for target, content in certificate.items()]
    files += [
        File(file.target, values[version_key(file)], file.uid, file.gid, file.mode)
        for file in service.files
    ]
    manifest = msgspec.msgpack.encode(service)
    try:
        mount.publish(files, manifest)
    except StorageFull:
        # Superseded generations wait for slow readers only while there is room for the new one.
        mount.drop_superseded()
        mount.publish(files, manifest)


def read_manifest(mount: ServiceMount) -> ServiceAssignment | None:
    """Return the assignment whose files a mount holds; None if it is empty or not understood."""
    manifest = mount.manifest()
    if not manifest:
        return None
    try:
        return msgspec.msgpack.decode(manifest, type=ServiceAssignment)
    except UNDECODABLE:
        return None
