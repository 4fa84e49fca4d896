"""A service's X.509 SVID as it lies in its mount, and word of each new one.

Owns reading one whole generation of files and noticing the next; it knows nothing of gRPC. A set is
read through the directory that `..data` names, so that chain and key are of one set. Source: the
X.509-SVID standard; the layout is `agent.generations`'.
"""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.pki.unreadable import UNREADABLE
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.identity import SpiffeId
from cluster.protocol.wire import CERTIFICATE_TARGETS

log = structlog.get_logger(__name__)

LOOK_PERIOD_S: Final = 0.5
"""A look reads one link. It also finds a mount that was taken away and made anew."""


@dataclass(frozen=True, slots=True)
class Svid:
    """One identity with its key and what its peers are checked with; all DER."""

    identity: SpiffeId
    chain: bytes
    """Leaf first, concatenated."""
    key: bytes = field(repr=False)
    """PKCS #8."""
    anchors: bytes

    @property
    def trust_domain_id(self) -> str:
        """The SPIFFE id of the trust domain, which names its bundle."""
        return f"spiffe://{self.identity.trust_domain}"


def load_svid(mount: Path) -> Svid:
    """Return what the mount of a service holds now.

    Raises OSError where there is no certificate, InvalidRequest where it cannot be understood.
    """
    generation = mount / (mount / "..data").readlink()
    chain_pem, key_pem, anchors_pem = (
        (generation / target).read_bytes() for target in CERTIFICATE_TARGETS
    )
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        anchors = x509.load_pem_x509_certificates(anchors_pem)
    except (*UNREADABLE, x509.ExtensionNotFound):
        raise InvalidRequest("the service's certificate cannot be read") from None
    return Svid(
        identity=SpiffeId.parse(uri),
        chain=_der(chain),
        key=key.private_bytes(
            Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        anchors=_der(anchors),
    )


class SvidFeed:
    """The present SVID of one mount, and a count that rises with each change of it."""

    def __init__(self, mount: Path) -> None:
        self._mount = mount
        self._seen: tuple[int, str] | None = None
        self._svid: Svid | None = None
        self._count = 0
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_PERIOD_S)

    async def look(self) -> None:
        """Take in what is there now."""
        async with self._changed:
            seen = self._glance()
            if self._count and seen == self._seen:
                return
            svid = self._load() if seen is not None else None
            # Swapped while it was read: the next look reads it again.
            self._seen = seen if svid is not None else None
            if self._count and svid == self._svid:
                return
            self._svid = svid
            self._count += 1
            self._changed.notify_all()
            log.info("svid.changed", present=svid is not None)

    async def next(self, after: int) -> tuple[int, Svid | None]:
        """Return a count above `after` and the SVID of then; None: there is none."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._count > after)
            return self._count, self._svid

    def _glance(self) -> tuple[int, str] | None:
        """Return what tells one set from the next: the mount and its present generation."""
        try:
            return self._mount.stat().st_dev, str((self._mount / "..data").readlink())
        except OSError:
            return None

    def _load(self) -> Svid | None:
        try:
            return load_svid(self._mount)
        except (OSError, InvalidRequest) as error:
            log.warning("svid.not_read", reason=type(error).__name__)
            return None


def _der(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(Encoding.DER) for one in certificates)
