"""A certificate as its owner receives it: is it for his key, from his cluster, and whose is it?

Owns the check that a requester makes before he keeps what he was sent. Source: DESIGN 5.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from cluster.pki.csr import key_from_pem
from cluster.pki.unreadable import UNREADABLE
from cluster.protocol.errors import InvalidRequest, MalformedMessage, PermissionDenied
from cluster.protocol.identity import SpiffeId


@dataclass(frozen=True, slots=True)
class ReceivedLeaf:
    """A leaf that passed `check_received`."""

    identity: SpiffeId
    not_before: datetime
    not_after: datetime


def check_received(
    chain_der: Sequence[bytes], key_pem: bytes, control_der: Iterable[bytes]
) -> ReceivedLeaf:
    """Return what the first certificate of a chain says.

    Raises PermissionDenied unless it is for this key and one of these control authorities signed
    it, and MalformedMessage if it cannot be read.
    """
    try:
        leaf = x509.load_der_x509_certificate(chain_der[0])
        public_key = leaf.public_key()
    except (*UNREADABLE, IndexError):
        raise MalformedMessage("the manager's answer holds no certificate") from None
    if public_key != key_from_pem(key_pem).public_key():
        raise PermissionDenied("the certificate received is not for the key it was asked for")
    if not any(_is_signed(leaf, authority) for authority in control_der):
        raise PermissionDenied("the certificate received is not from this cluster")
    return ReceivedLeaf(_identity(leaf), leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _is_signed(leaf: x509.Certificate, authority: bytes) -> bool:
    try:
        leaf.verify_directly_issued_by(x509.load_der_x509_certificate(authority))
    except UNREADABLE:
        return False
    return True


def _identity(leaf: x509.Certificate) -> SpiffeId:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return SpiffeId.parse(uri)
    except (*UNREADABLE, InvalidRequest):
        raise PermissionDenied("the certificate received names nobody of a cluster") from None
