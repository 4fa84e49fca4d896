"""Turning a manager's reply into a context: at init, enrolment and renewal.

Owns when a context is replaced and what it is made of; that a certificate is ours is checked by
`cluster.pki`. The key is made on this machine and never leaves it.
"""

import ssl
from base64 import b64decode, b64encode
from collections.abc import Callable

from cluster.cli.answers import Answer, nested, text, texts
from cluster.cli.context_files import Context, ContextFiles
from cluster.cli.credentials import check_chain, request_text
from cluster.cli.output import warn
from cluster.protocol.errors import ClusterError, MalformedMessage, PermissionDenied
from cluster.protocol.identity import Kind
from cluster.protocol.secret_bytes import SecretBytes
from cluster.system import Entropy


def context_of(
    name: str, reply: Answer, key_pem: SecretBytes, entropy: Entropy, root_digest: str | None = None
) -> Context:
    """Return the context that a reply makes, or raise PermissionDenied if it is not for us.

    `root_digest`: what a token pins; the bundle that is kept must stand on that root.
    """
    from cluster.pki.renewal import renew_at
    from cluster.pki.trust_bundle import TrustBundle

    bundle = TrustBundle.from_dict(nested(reply, "bundle"))
    if root_digest is not None:
        bundle.verify(root_digest)
    chain = _chain(reply)
    leaf = check_chain(chain, key_pem, bundle.control)
    trust_domain = text(reply, "trust_domain")
    if leaf.identity.kind is not Kind.OPERATOR or leaf.identity.trust_domain != trust_domain:
        raise PermissionDenied("the certificate received is not an operator's")
    draw = entropy.uniform(0, 1)
    return Context(
        name=name,
        operator=leaf.identity.subject,
        role=text(reply, "role"),
        trust_domain=trust_domain,
        endpoints=texts(reply, "managers"),
        chain_pem="".join(ssl.DER_cert_to_PEM_cert(der) for der in chain),
        control=tuple(b64encode(der).decode() for der in bundle.control),
        renew_at=renew_at(leaf.not_before, leaf.not_after, draw).timestamp(),
        not_after=leaf.not_after.timestamp(),
        key_pem=key_pem,
    )


def renew_on_use(
    files: ContextFiles, context: Context, send: Callable[[object], Answer], entropy: Entropy
) -> Context:
    """Return the context with a new certificate, or as it was: the present one still serves."""
    with files.renewing(context.name) as ours:
        if not ours:
            return context
        stored = files.load(context.name)
        if stored.renew_at > context.renew_at:
            # Another process was faster; asking again would retire what it was given.
            return stored
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


def _chain(reply: Answer) -> list[bytes]:
    try:
        return [b64decode(item, validate=True) for item in texts(reply, "certificate_chain")]
    except ValueError:
        raise MalformedMessage("the manager's answer holds no certificate") from None
