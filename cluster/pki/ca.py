"""Certificate authorities: root, intermediates, the engine's own, and the leaves they issue.

Owns the shape of every certificate. Decides nothing about who may have one: the caller has
authorised the request and names the identity. P-256 and SHA-256 throughout. Source: RFC 5280, the
X.509-SVID standard, DESIGN 3 and 5.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.pki.csr import key_to_pem, new_key
from cluster.protocol.errors import Conflict, IntegrityError, InvalidRequest
from cluster.protocol.identity import Kind, SpiffeId
from cluster.system import Clock, Entropy

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

ROOT_LIFE = timedelta(days=20 * 365)
INTERMEDIATE_LIFE = timedelta(days=10 * 365)
AUTHORITY_BACKDATE = timedelta(days=1)
LEAF_BACKDATE = timedelta(minutes=5)
"""Forgives a peer whose clock is a little behind."""

ENGINE_NAME = "strongroom-manager"
"""The common name that etcd is told to demand of its peers."""

_NEVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""RFC 5280 §4.1.2.5: no well-defined expiration date."""

_USES = {
    Kind.MANAGER: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    Kind.NODE: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    Kind.OPERATOR: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    Kind.SERVICE: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
}


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that can sign: certificate and private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def to_der(self) -> tuple[bytes, bytes]:
        """Return (certificate, PKCS #8 key); the key goes into a sealed record only."""
        key_der = self.key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return self.certificate.public_bytes(serialization.Encoding.DER), key_der

    @classmethod
    def from_der(cls, certificate_der: bytes, key_der: bytes) -> "Authority":
        """Return the authority `to_der` wrote; raise IntegrityError if the halves do not match."""
        try:
            certificate = x509.load_der_x509_certificate(certificate_der)
            key = serialization.load_der_private_key(key_der, password=None)
        except (ValueError, TypeError):
            raise IntegrityError("a stored certificate authority cannot be read") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or (
            key.public_key() != certificate.public_key()
        ):
            raise IntegrityError("a stored certificate authority's key is not its certificate's")
        return cls(certificate, key)


def new_root(trust_domain: str, clock: Clock, entropy: Entropy) -> Authority:
    """Return a self-signed root that may stand above one level of intermediates."""
    return _new_authority("root", trust_domain, None, ROOT_LIFE, clock, entropy)


def new_intermediate(
    root: Authority,
    role: Literal["control", "workload"],
    trust_domain: str,
    clock: Clock,
    entropy: Entropy,
) -> Authority:
    """Return an intermediate for leaves only: of the cluster (control) or services (workload)."""
    return _new_authority(role, trust_domain, root, INTERMEDIATE_LIFE, clock, entropy)


def trust_anchor(authority: Authority, entropy: Entropy) -> x509.Certificate:
    """Return the self-signed certificate of an intermediate: same name, key and life.

    Most TLS libraries end a chain at a self-signed certificate only. With this one in place of the
    root they believe the leaves of this authority, and those of no other under the root.
    """
    certificate = authority.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.subject)
        .public_key(authority.key.public_key())
        .serial_number(_serial(entropy))
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    public_key = authority.key.public_key()
    return _add_key_ids(builder, public_key, public_key).sign(authority.key, hashes.SHA256())


def new_engine_authority(clock: Clock, entropy: Entropy) -> Authority:
    """Return the authority of the engine's peers, which practically never expires.

    etcd lets any certificate of its peer CA reach the Raft handler, so this one signs for managers
    alone. It is valid from a day before birth: nothing of the engine expires while a cluster is
    switched off.
    """
    return _new_authority("engine", "engine", None, None, clock, entropy)


def _new_authority(
    role: str,
    trust_domain: str,
    issuer: Authority | None,
    life: timedelta | None,
    clock: Clock,
    entropy: Entropy,
) -> Authority:
    key = new_key()
    subject = _authority_name(role, trust_domain, entropy)
    now = clock.now().replace(microsecond=0)
    not_after = _NEVER if life is None else now + life
    if issuer is not None:
        not_after = min(not_after, issuer.certificate.not_valid_after_utc)
    signer = issuer.key if issuer is not None else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(_serial(entropy))
        .not_valid_before(now - AUTHORITY_BACKDATE)
        .not_valid_after(not_after)
        .add_extension(
            x509.BasicConstraints(ca=True, path_length=1 if role == "root" else 0), critical=True
        )
        .add_extension(_key_usage(authority=True), critical=True)
    )
    builder = _add_key_ids(builder, key.public_key(), signer.public_key())
    return Authority(builder.sign(signer, hashes.SHA256()), key)


def issue_leaf(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    identity: SpiffeId,
    ttl: timedelta,
    clock: Clock,
    entropy: Entropy,
    dns_names: Sequence[str] = (),
    ip_addresses: Sequence[IpAddress] = (),
) -> x509.Certificate:
    """Return a leaf for `identity`: what it may be used for follows from the kind alone.

    Only managers and services carry `dns_names` and `ip_addresses`. The leaf is backdated by
    `LEAF_BACKDATE` and never outlives its issuer. Raises InvalidRequest, and Conflict when the
    authority itself has run out.
    """
    if ttl <= timedelta(0):
        raise InvalidRequest("a certificate takes a positive time to live")
    if (dns_names or ip_addresses) and identity.kind not in {Kind.MANAGER, Kind.SERVICE}:
        raise InvalidRequest("only managers and services have host names in their certificates")
    now = clock.now().replace(microsecond=0)
    issuer_end = authority.certificate.not_valid_after_utc
    if now >= issuer_end:
        raise Conflict("the certificate authority has expired; renew it before anything is issued")
    names = _host_names(dns_names, ip_addresses)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(_serial(entropy))
        .not_valid_before(now - LEAF_BACKDATE)
        .not_valid_after(min(now + ttl, issuer_end))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_USES[identity.kind]), critical=False)
        # RFC 5280 §4.2.1.6: critical, because the subject is empty.
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(identity)), *names]),
            critical=True,
        )
    )
    builder = _add_key_ids(builder, public_key, authority.key.public_key())
    return builder.sign(authority.key, hashes.SHA256())


def issue_engine_certificate(
    engine_authority: Authority, manager_id: str, hosts: Sequence[str]
) -> tuple[bytes, bytes]:
    """Return (certificate PEM, key PEM) for one manager's engine member.

    `hosts` are names or addresses; include the source address, since etcd checks it against the
    names when it accepts a peer. `localhost` and the loopback addresses are always there.
    """
    key = new_key()
    authority = engine_authority.certificate
    names = _mixed_names([*hosts, "localhost", "127.0.0.1", "::1"])
    subject = [
        x509.NameAttribute(NameOID.COMMON_NAME, ENGINE_NAME),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, manager_id),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(authority.not_valid_before_utc)
        .not_valid_after(authority.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_USES[Kind.MANAGER]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    builder = _add_key_ids(builder, key.public_key(), engine_authority.key.public_key())
    certificate = builder.sign(engine_authority.key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM), key_to_pem(key)


def _authority_name(role: str, trust_domain: str, entropy: Entropy) -> x509.Name:
    """Return a unique subject: after a rotation two of one role stand side by side."""
    common_name = f"strongroom {role} {entropy.token(4).hex()}"
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _serial(entropy: Entropy) -> int:
    """Return 144 random bits under a leading one: of one length, below RFC 5280's 160."""
    return 1 << 144 | int.from_bytes(entropy.token(18))


def _host_names(
    dns_names: Sequence[str], ip_addresses: Sequence[IpAddress]
) -> list[x509.GeneralName]:
    try:
        names: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys(dns_names)]
    except ValueError:
        raise InvalidRequest("a host name in a certificate takes ASCII letters only") from None
    return names + [x509.IPAddress(address) for address in dict.fromkeys(ip_addresses)]


def _mixed_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    dns_names: list[str] = []
    addresses: list[IpAddress] = []
    for host in hosts:
        try:
            addresses.append(ipaddress.ip_address(host))
        except ValueError:
            dns_names.append(host)
    return _host_names(dns_names, addresses)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _add_key_ids(
    builder: x509.CertificateBuilder,
    subject: ec.EllipticCurvePublicKey,
    issuer: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(subject), critical=False
    ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), critical=False)
