"""A real cluster's authorities, and certificates from them: proper ones and forgeries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from cluster.pki import csr
from cluster.pki.ca import Authority, issue_leaf, new_intermediate, new_root
from cluster.pki.trust_bundle import TrustBundle
from cluster.protocol.identity import Kind, SpiffeId
from cluster.system import Clock, Entropy, SystemClock, SystemEntropy

TRUST_DOMAIN = "lab.test"
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class Credential:
    """A leaf with its chain and key."""

    certificate: x509.Certificate
    chain_pem: bytes
    key_pem: bytes

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def fingerprint(self) -> str:
        return self.certificate.fingerprint(hashes.SHA256()).hex()


class ClusterAuthority:
    """Root, control and workload authorities of one trust domain, in real time as TLS needs it."""

    def __init__(
        self,
        trust_domain: str = TRUST_DOMAIN,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        self.trust_domain = trust_domain
        self.clock = clock or SystemClock()
        self.entropy = entropy or SystemEntropy()
        self.root = new_root(trust_domain, self.clock, self.entropy)
        self.control = self.new_intermediate_of_control()
        self.workload = new_intermediate(
            self.root, "workload", trust_domain, self.clock, self.entropy
        )

    def new_intermediate_of_control(self) -> Authority:
        """Return one more control authority under the same root."""
        return new_intermediate(self.root, "control", self.trust_domain, self.clock, self.entropy)

    @property
    def root_der(self) -> bytes:
        return self.root.to_der()[0]

    @property
    def control_der(self) -> list[bytes]:
        return [self.control.to_der()[0]]

    def bundle(self) -> TrustBundle:
        """Return what everyone receives."""
        return TrustBundle(
            roots=(self.root_der,),
            control=tuple(self.control_der),
            workload=(self.workload.to_der()[0],),
        )

    def issue(
        self,
        kind: Kind,
        subject: str = "one",
        *,
        ttl: timedelta = timedelta(hours=1),
        clock: Clock | None = None,
        authority: Authority | None = None,
    ) -> Credential:
        """Return a proper leaf: services from the workload authority, all others from control."""
        key = csr.new_key()
        issuer = authority or (self.workload if kind is Kind.SERVICE else self.control)
        identity = SpiffeId(self.trust_domain, kind, subject)
        leaf = issue_leaf(
            issuer, key.public_key(), identity, ttl, clock or self.clock, self.entropy
        )
        return _credential(leaf, issuer, csr.key_to_pem(key))

    def forge(
        self,
        uris: Sequence[str],
        *,
        uses: Sequence[x509.ObjectIdentifier] = (CLIENT, SERVER),
        is_authority: bool = False,
        authority: Authority | None = None,
    ) -> Credential:
        """Return a leaf as no code of ours issues it."""
        key = csr.new_key()
        issuer = authority or self.control
        now = self.clock.now()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
                critical=False,
            )
        )
        if uris:
            names = [x509.UniformResourceIdentifier(uri) for uri in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        leaf = builder.sign(issuer.key, hashes.SHA256())
        return _credential(leaf, issuer, csr.key_to_pem(key))


def _credential(leaf: x509.Certificate, issuer: Authority, key_pem: bytes) -> Credential:
    chain = [leaf, issuer.certificate]
    pem = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)
    return Credential(leaf, pem, key_pem)
