"""The certificate an expired node shows when it comes back: parsed, and proven to be one of ours.

TLS no longer speaks for it, so its end and its name are believed only once an authority of the
cluster is found to have signed them. Who may return is decided elsewhere. Source: DESIGN 5.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cluster.pki.csr import public_key_digest
from cluster.pki.unreadable import UNREADABLE
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.identity import Kind, SpiffeId

MAX_BYTES = 8192


@dataclass(frozen=True, slots=True)
class OldLeaf:
    """A node's certificate as it was shown; nothing in it is believed before `signed_by`."""

    certificate: x509.Certificate
    public_key: ec.EllipticCurvePublicKey
    identity: SpiffeId

    @classmethod
    def parse(cls, der: bytes) -> Self:
        """Return what `der` says. Raises InvalidRequest for anything but a node's certificate."""
        if len(der) > MAX_BYTES:
            raise InvalidRequest("the old certificate is too large")
        try:
            certificate = x509.load_der_x509_certificate(der)
            public_key = certificate.public_key()
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            uris = names.value.get_values_for_type(x509.UniformResourceIdentifier)
        except UNREADABLE:
            raise InvalidRequest("the old certificate cannot be read; send DER") from None
        identity = SpiffeId.parse(uris[0]) if len(uris) == 1 else None
        if (
            identity is None
            or identity.kind is not Kind.NODE
            or not isinstance(public_key, ec.EllipticCurvePublicKey)
        ):
            raise InvalidRequest("the old certificate is not a node's")
        return cls(certificate, public_key, identity)

    @property
    def serial(self) -> str:
        """The serial as records keep it: lower-case hex without a prefix."""
        return format(self.certificate.serial_number, "x")

    @property
    def key_digest(self) -> str:
        """The hex SHA-256 of its public key."""
        return public_key_digest(self.public_key)

    @property
    def expired_at(self) -> datetime:
        """When it ended, or will."""
        return self.certificate.not_valid_after_utc

    def signed_by(self, authorities: Iterable[bytes]) -> bool:
        """Return whether one of these authorities (DER) issued it."""
        return any(self._issued_by(der) for der in authorities)

    def _issued_by(self, der: bytes) -> bool:
        try:
            self.certificate.verify_directly_issued_by(x509.load_der_x509_certificate(der))
        except UNREADABLE:
            return False
        return True
