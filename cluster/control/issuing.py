"""Certificates for managers, nodes and operators, from the authorities in the view.

Owns which authority signs, for how long, and the reply every newcomer gets. It decides nothing
about who may have a certificate: `enrolment`, `operators` and `managers` do. Source: DESIGN 5.
"""

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cluster.control.callers import serial_text
from cluster.control.requests import JSON
from cluster.pki.ca import Authority, IpAddress, issue_leaf
from cluster.pki.csr import check_csr, public_key_digest
from cluster.pki.trust_bundle import TrustBundle
from cluster.protocol.errors import Conflict
from cluster.protocol.identity import Kind, SpiffeId
from cluster.store.records import (
    CLUSTER_ID,
    AuthorityRecord,
    ClusterRecord,
    ManagerRecord,
    ManagerState,
)
from cluster.store.view import View
from cluster.system import Clock, Entropy


@dataclass(frozen=True, slots=True)
class Request:
    """A checked certificate request: the one thing taken from it is its key."""

    public_key: ec.EllipticCurvePublicKey
    digest: str
    """Hex SHA-256 of the public key."""

    @classmethod
    def of(cls, csr: bytes) -> "Request":
        """Return the request in `csr` (DER). Raises InvalidRequest."""
        public_key = check_csr(csr)
        return cls(public_key, public_key_digest(public_key))


@dataclass(frozen=True, slots=True)
class Issued:
    """A new certificate and what its record keeps of it."""

    chain: tuple[bytes, ...]
    """DER, leaf first."""
    serial: str
    not_after_s: float


@dataclass(frozen=True, slots=True)
class Issuer:
    """Issues leaves: services' of the workload authority, all others of the control authority."""

    clock: Clock
    entropy: Entropy
    _authorities: dict[str, Authority] = field(default_factory=dict, repr=False, compare=False)
    """By record id; parsing a private key is slow, and a record of an authority never changes."""

    def node(self, view: View, node_id: str, request: Request) -> Issued:
        """Return a node's certificate."""
        cluster = get_cluster(view)
        return self._leaf(view, Kind.NODE, node_id, request, cluster.node_ttl_s)

    def operator(self, view: View, name: str, request: Request) -> Issued:
        """Return an operator's certificate."""
        cluster = get_cluster(view)
        return self._leaf(view, Kind.OPERATOR, name, request, cluster.operator_ttl_s)

    def manager(
        self, view: View, manager_id: str, request: Request, hosts: Sequence[str]
    ) -> Issued:
        """Return a manager's certificate, which also serves on `hosts` (names or addresses)."""
        cluster = get_cluster(view)
        return self._leaf(view, Kind.MANAGER, manager_id, request, cluster.manager_ttl_s, hosts)

    def service(self, view: View, name: str, request: Request) -> Issued:
        """Return a service's certificate, for its own name alone."""
        cluster = get_cluster(view)
        hosts = (name, f"{name}.{cluster.trust_domain}")
        return self._leaf(view, Kind.SERVICE, name, request, cluster.service_ttl_s, hosts)

    def _leaf(
        self,
        view: View,
        kind: Kind,
        subject: str,
        request: Request,
        ttl_s: float,
        hosts: Sequence[str] = (),
    ) -> Issued:
        signer = self._signer(view, "workload" if kind is Kind.SERVICE else "control")
        names, addresses = _sorted_hosts(hosts)
        leaf = issue_leaf(
            signer,
            request.public_key,
            SpiffeId(get_cluster(view).trust_domain, kind, subject),
            timedelta(seconds=ttl_s),
            self.clock,
            self.entropy,
            dns_names=names,
            ip_addresses=addresses,
        )
        chain = (_der(leaf), _der(signer.certificate))
        not_after_s = leaf.not_valid_after_utc.timestamp()
        return Issued(chain, serial_text(leaf.serial_number), not_after_s)

    def _signer(self, view: View, role: str) -> Authority:
        record = _active(view, role)
        found = self._authorities.get(record.id)
        if found is None:
            found = Authority.from_der(record.certificate, record.private_key)
            self._authorities[record.id] = found
        return found


def get_cluster(view: View) -> ClusterRecord:
    """Return the cluster's record. Raises Conflict before `init`."""
    stored = view.cluster.get(CLUSTER_ID)
    if stored is None:
        raise Conflict("the cluster is not initialised; run `strongroom init`")
    return stored.record


def trust_bundle(view: View) -> TrustBundle:
    """Return the authorities everyone trusts, the active one of each kind first."""
    return TrustBundle(
        roots=_certificates(view, "root"),
        control=_certificates(view, "control"),
        workload=_certificates(view, "workload"),
    )


def workload_anchors(view: View) -> tuple[bytes, ...]:
    """Return what services check each other with (DER), the active authority's first."""
    return tuple(record.anchor for record in _records(view, "workload") if record.anchor)


def active_managers(view: View) -> list[ManagerRecord]:
    """Return the managers that serve, by id."""
    records = (stored.record for stored in view.managers.values())
    return sorted((r for r in records if r.state is ManagerState.ACTIVE), key=lambda r: r.id)


def reply_to_newcomer(view: View, chain: Sequence[bytes]) -> dict[str, JSON]:
    """Return what every newcomer is told: its certificate, whom to trust and where to call."""
    managers = active_managers(view)
    bundle = trust_bundle(view)
    return {
        "trust_domain": get_cluster(view).trust_domain,
        "certificate_chain": _texts(chain),
        "bundle": {
            "format": bundle.format,
            "roots": _texts(bundle.roots),
            "control": _texts(bundle.control),
            "workload": _texts(bundle.workload),
        },
        "managers": [manager.api_address for manager in managers],
        "join_addresses": [manager.join_address for manager in managers],
    }


def following(known: tuple[str, ...], new: str) -> tuple[str, ...]:
    """Return the newest serial (or key) and the one before it: only these two may speak."""
    return (new, *known[:1])


def _sorted_hosts(hosts: Sequence[str]) -> tuple[list[str], list[IpAddress]]:
    names: list[str] = []
    addresses: list[IpAddress] = []
    for host in hosts:
        try:
            addresses.append(ipaddress.ip_address(host))
        except ValueError:
            names.append(host)
    return names, addresses


def _records(view: View, role: str) -> list[AuthorityRecord]:
    records = (stored.record for stored in view.authorities.values())
    return sorted((r for r in records if r.role == role), key=lambda r: (not r.active, r.id))


def _active(view: View, role: str) -> AuthorityRecord:
    records = _records(view, role)
    if not records or not records[0].active:
        raise Conflict(f"the cluster has no active {role} authority; see `strongroom status`")
    return records[0]


def _certificates(view: View, role: str) -> tuple[bytes, ...]:
    return tuple(record.certificate for record in _records(view, role))


def _texts(ders: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(der).decode() for der in ders]


def authority_ends(view: View) -> list[tuple[str, datetime]]:
    """Return role and end of each authority that signs."""
    return [
        (
            stored.record.role,
            x509.load_der_x509_certificate(stored.record.certificate).not_valid_after_utc,
        )
        for stored in view.authorities.values()
        if stored.record.active
    ]


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
