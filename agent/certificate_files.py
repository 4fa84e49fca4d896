"""Sets of certificate files on their way into mounts.

Owns the short life of a set between `agent.certificates` and `agent.mounts`: staged, published with
the secrets of its service, wiped. A set that is published rests in its mount alone and is read back
from there when the secrets beside it change.
"""

from collections.abc import Collection
from pathlib import Path

from agent.certificates import CertificateFiles
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import CERTIFICATE_TARGETS


class StagedCertificates:
    """Sets that arrived and are in no mount yet, by service id."""

    def __init__(self) -> None:
        self._sets: dict[str, CertificateFiles] = {}

    def __contains__(self, service_id: str) -> bool:
        return service_id in self._sets

    def stage(self, service_id: str, files: CertificateFiles) -> None:
        """Keep a set until it is published; it takes the place of an older one."""
        self.settle(service_id)
        self._sets[service_id] = files

    def get(self, service_id: str) -> CertificateFiles | None:
        """Return the staged set of a service."""
        return self._sets.get(service_id)

    def settle(self, service_id: str) -> None:
        """Wipe a set: it rests in its mount now, or its service is gone."""
        wipe(self._sets.pop(service_id, {}))

    def keep_only(self, service_ids: Collection[str]) -> None:
        """Wipe the sets of all other services."""
        for service_id in self._sets.keys() - service_ids:
            self.settle(service_id)


def read_certificate(mount_path: Path) -> CertificateFiles:
    """Return the set that a mount holds. Raises OSError if it is not there."""
    return {
        target: SecretBytes((mount_path / target).read_bytes()) for target in CERTIFICATE_TARGETS
    }


def wipe(files: CertificateFiles) -> None:
    """Overwrite our copy of a set."""
    for content in files.values():
        content.wipe()
