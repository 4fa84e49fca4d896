"""Turning a manager's reply into a context: at init, enrolment and renewal.

Owns the check that a certificate is for our key and from this cluster's control authorities, and
the moment it is renewed at. The key is made here and never leaves this machine.
"""

import ssl
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster.cli.answers import Answer, nested, text, texts
from cluster.cli.context_files import Context, ContextFiles
from cluster.cli.output import warn
from cluster.protocol.errors import ClusterError, MalformedMessage, PermissionDenied
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.system import Entropy

if TYPE_CHECKING:
    from cryptography import x509


def request_text(key_pem: SecretBytes) -> str:
    """Return a certificate request for the key: DER in base64."""
    from cluster.pki.csr import key_from_pem, make_csr

    return b64encode(make_csr(key_from_pem(key_pem.reveal()))).decode()


def context_of(name: str, reply: Answer, key_pem: SecretBytes, entropy: Entropy) -> Context:
    """Return the context that a reply makes, or raise PermissionDenied if it is not for us."""
    from cryptography import x509

    from cluster.pki.renewal import renew_at
    from cluster.pki.trust_bundle import TrustBundle

    bundle = TrustBundle.from_dict(nested(reply, "bundle"))
    try:
        chain = [b64decode(item, validate=True) for item in texts(reply, "certificate_chain")]
        leaf = x509.load_der_x509_certificate(chain[0])
    except (ValueError, IndexError):
        raise MalformedMessage("the manager's answer holds no certificate") from None
    trust_domain = text(reply, "trust_domain")
    operator = _check_leaf(leaf, key_pem, bundle.control, trust_domain)
    renewal = renew_at(leaf.not_valid_before_utc, leaf.not_valid_after_utc, entropy.uniform(0, 1))
    return Context(
        name=name,
        operator=operator,
        role=text(reply, "role"),
        trust_domain=trust_domain,
        endpoints=texts(reply, "managers"),
        chain_pem="".join(ssl.DER_cert_to_PEM_cert(der) for der in chain),
        control=tuple(b64encode(der).decode() for der in bundle.control),
        renew_at=renewal.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        key_pem=key_pem,
    )


def renew_on_use(
    files: ContextFiles, context: Context, send: Callable[[object], Answer], entropy: Entropy
) -> Context:
    """Return the context with a new certificate, or as it was: the present one still serves."""
    with files.renewing(context.name) as ours:
        if not ours:
            return context
        try:
            key_pem = files.pending_key(context.name)
            reply = send({"csr": request_text(key_pem)})
            renewed = context_of(context.name, reply, key_pem, entropy)
            if renewed.trust_domain != context.trust_domain:
                raise PermissionDenied("the new certificate is of another cluster")
            files.save(renewed)
        except (ClusterError, OSError) as error:
            reason = error.message if isinstance(error, ClusterError) else error.strerror
            warn(f"the operator certificate was due for renewal and is not renewed: {reason}")
            return context
        return renewed


def _check_leaf(
    leaf: "x509.Certificate", key_pem: SecretBytes, control: Sequence[bytes], domain: str
) -> str:
    """Return the operator whom the certificate names."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    from cluster.pki.csr import key_from_pem

    if leaf.public_key() != key_from_pem(key_pem.reveal()).public_key():
        raise PermissionDenied("the certificate received is not for this operator's key")

    def is_signed_by(authority: bytes) -> bool:
        try:
            leaf.verify_directly_issued_by(x509.load_der_x509_certificate(authority))
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    if not any(is_signed_by(authority) for authority in control):
        raise PermissionDenied("the certificate received is not from this cluster")
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        raise PermissionDenied("the certificate received names nobody") from None
    identity = SpiffeId.parse(uri)
    if identity.kind is not Kind.OPERATOR or identity.trust_domain != domain:
        raise PermissionDenied("the certificate received is not an operator's")
    return identity.subject
