"""Certificates of the services on this node: when to ask, with which key, what is believed (pure).

Owns the schedule and the keys. A key is made here, waits in memory for its certificate and then
rests in the service's tmpfs alone: it is never sent, never stored on a disk, and not reused. A
request that got no answer is sent again with the same key. Times are CLOCK_BOOTTIME seconds and a
life counts from the sending of its request, so a calendar that jumps changes nothing. Must not read
a clock or do any IO. Source: DESIGN 5 and 6.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.pki.csr import key_to_pem, make_csr, new_key
from cluster.pki.received_leaf import check_received
from cluster.pki.renewal import EARLIEST, LATEST
from cluster.protocol.errors import PermissionDenied
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import (
    CERTIFICATE_TARGETS,
    ServiceAssignment,
    ServiceCertificate,
    ServiceSigningRequest,
)

CertificateFiles = Mapping[str, SecretBytes]
"""One set, by target: chain, key and what peers are checked with, all PEM."""

ANSWER_LIMIT_S: Final = 5.0
LEAST_LIFE_S: Final = 1.0
"""Renewals of one service are at least this far apart, whatever a manager says."""
FAULT_AFTER: Final = 2
"""Failures in a row before a service's certificate is called faulty."""
_FIRST_RETRY_S: Final = 1.0
_LAST_RETRY_S: Final = 60.0
_DOUBLINGS: Final = 10


@dataclass(slots=True)
class _Pursuit:
    """What is known of one service's next certificate."""

    name: str
    due_s: float
    key: ec.EllipticCurvePrivateKey | None = field(default=None, repr=False)
    asked_s: float | None = None
    failures: int = 0
    reason: str = ""


class Certificates:
    """The schedule of one node. `draw` gives jitter in [0, 1]."""

    def __init__(self, trust_domain: str, draw: Callable[[], float]) -> None:
        self._trust_domain = trust_domain
        self._draw = draw
        self._pursuits: dict[str, _Pursuit] = {}

    def follow(self, services: Iterable[ServiceAssignment], now_s: float) -> None:
        """See to these services and no others; one that is new is due at once."""
        wanted = {service.service_id: service.name for service in services if service.certificate}
        for gone in self._pursuits.keys() - wanted.keys():
            del self._pursuits[gone]
        for service_id, name in wanted.items():
            self._pursuits.setdefault(service_id, _Pursuit(name, now_s))

    def due(self, now_s: float) -> list[ServiceSigningRequest]:
        """Return the requests to send now, and count on their being sent."""
        requests = []
        for service_id, pursuit in self._pursuits.items():
            if now_s < pursuit.due_s:
                continue
            if pursuit.asked_s is not None:
                pursuit.failures += 1
                pursuit.reason = "no manager answers"
            pursuit.key = pursuit.key or new_key()
            pursuit.asked_s = now_s
            pursuit.due_s = now_s + ANSWER_LIMIT_S + self._pause_s(pursuit.failures)
            requests.append(ServiceSigningRequest(service_id, make_csr(pursuit.key)))
        return requests

    def accept(self, message: ServiceCertificate, now_s: float) -> CertificateFiles | None:
        """Return the new set of a service, or None if nobody asked for it.

        Raises PermissionDenied or MalformedMessage unless it is for the key that was sent, under
        one of its anchors, and names this service of our trust domain.
        """
        pursuit = self._pursuits.get(message.service_id)
        if pursuit is None or pursuit.key is None or pursuit.asked_s is None:
            return None
        key_pem = key_to_pem(pursuit.key)
        leaf = check_received(message.chain, key_pem, message.anchors)
        if leaf.identity != SpiffeId(self._trust_domain, Kind.SERVICE, pursuit.name):
            raise PermissionDenied("the certificate received names another service")
        share = EARLIEST + (LATEST - EARLIEST) * min(max(self._draw(), 0.0), 1.0)
        pursuit.due_s = max(pursuit.asked_s + share * message.life_s, now_s + LEAST_LIFE_S)
        pursuit.key, pursuit.asked_s, pursuit.failures, pursuit.reason = None, None, 0, ""
        contents = (_pem(message.chain), key_pem, _pem(message.anchors))
        return dict(zip(CERTIFICATE_TARGETS, map(SecretBytes, contents), strict=True))

    def failed(self, service_id: str, reason: str, now_s: float) -> None:
        """Take in that a request was refused, or its certificate could not be put in place."""
        pursuit = self._pursuits.get(service_id)
        if pursuit is not None:
            pursuit.asked_s = None
            pursuit.failures += 1
            pursuit.reason = reason
            pursuit.due_s = now_s + self._pause_s(pursuit.failures)

    def fault_of(self, service_id: str) -> str:
        """Return why a service has no certificate; empty while there is nothing wrong."""
        pursuit = self._pursuits.get(service_id)
        if pursuit is None or pursuit.failures < FAULT_AFTER:
            return ""
        return f"no certificate for service {pursuit.name}: {pursuit.reason}; it is asked for again"

    def _pause_s(self, failures: int) -> float:
        if failures == 0:
            return 0.0
        pause_s = min(_LAST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(failures - 1, _DOUBLINGS))
        return pause_s * (1 + self._draw()) / 2


def _pem(certificates: Iterable[bytes]) -> bytes:
    loaded = (x509.load_der_x509_certificate(der) for der in certificates)
    return b"".join(one.public_bytes(Encoding.PEM) for one in loaded)
