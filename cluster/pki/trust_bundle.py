"""The trust bundle: which authorities a cluster stands on, as everyone receives it.

Owns its form and its proof. It is a list at every level from the start, because a rotation needs
two of a kind side by side. It carries no private key. Source: DESIGN 5 and 7.
"""

import hashlib
import ssl
from typing import Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cluster.pki.unreadable import UNREADABLE
from cluster.protocol.errors import MalformedMessage, PermissionDenied

FORMAT = 1
CERTIFICATES_LIMIT = 8
"""Of one kind; a rotation takes two."""


class TrustBundle(msgspec.Struct, frozen=True, kw_only=True):
    """DER certificates, the current one first in each list."""

    roots: tuple[bytes, ...]
    control: tuple[bytes, ...]
    workload: tuple[bytes, ...]
    format: int = FORMAT

    def root_digest(self) -> str:
        """Return the hex SHA-256 of the current root's DER: what a join token pins."""
        return hashlib.sha256(self.roots[0]).hexdigest()

    def verify(self, root_digest: str) -> None:
        """Raise PermissionDenied unless a root with this hex digest signed every intermediate here.

        Only the pinned root counts: a bundle cannot bring in an authority by bringing in another
        root.
        """
        pinned = [der for der in self.roots if hashlib.sha256(der).hexdigest() == root_digest]
        if not pinned:
            raise PermissionDenied(
                "the cluster's root certificate is not the one in the join token; do not join, "
                "check the address and ask for a new token"
            )
        if not self.control:
            raise PermissionDenied("the trust bundle names no control authority")
        root = _load(pinned[0])
        _check_signed(root, root)
        for der in (*self.control, *self.workload):
            _check_signed(_load(der), root)

    def control_pem(self) -> bytes:
        """Return the control authorities as PEM."""
        return _to_pem(self.control)

    def workload_pem(self) -> bytes:
        """Return the workload authorities as PEM: what a service checks other services against."""
        return _to_pem(self.workload)

    def to_pem(self) -> bytes:
        """Return every certificate as PEM, roots first."""
        return _to_pem((*self.roots, *self.control, *self.workload))

    def to_dict(self) -> dict[str, object]:
        """Return the bundle for JSON, certificates in base64."""
        return {
            field: msgspec.to_builtins(getattr(self, field)) for field in self.__struct_fields__
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Return the bundle that `to_dict` wrote, unproven, or raise MalformedMessage."""
        try:
            bundle = msgspec.convert(data, cls)
        except msgspec.ValidationError:
            raise MalformedMessage("the trust bundle is malformed") from None
        lists = (bundle.roots, bundle.control, bundle.workload)
        if bundle.format != FORMAT or not bundle.roots or max(map(len, lists)) > CERTIFICATES_LIMIT:
            raise MalformedMessage("the trust bundle is malformed or of a newer format")
        return bundle


def _to_pem(ders: tuple[bytes, ...]) -> bytes:
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in ders).encode()


def _load(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except UNREADABLE:
        raise MalformedMessage("a certificate in the trust bundle cannot be read") from None


def _check_signed(certificate: x509.Certificate, root: x509.Certificate) -> None:
    """Raise PermissionDenied unless `root` signed `certificate` and it is an authority itself."""
    try:
        certificate.verify_directly_issued_by(root)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except UNREADABLE:
        raise PermissionDenied(
            "an authority in the trust bundle is not signed by its root"
        ) from None
    if not constraints.ca or not isinstance(certificate.public_key(), ec.EllipticCurvePublicKey):
        raise PermissionDenied("a certificate in the trust bundle is not an authority")
