"""Whom a client has reached: the one check of a server's name, for command line and agent alike.

A chain to a control authority is not enough: every node has one. Only managers may serve.
Source: the X.509-SVID standard, section 5.2; DESIGN 5.
"""

from collections.abc import Mapping

from cluster.protocol.errors import InvalidRequest, PermissionDenied
from cluster.protocol.identity import Kind, SpiffeId


def manager_identity(certificate: Mapping[str, object] | None, trust_domain: str) -> SpiffeId:
    """Return whom a verified `getpeercert()` names; raise PermissionDenied if no manager of ours.

    `certificate` is empty when TLS verified nothing, and is refused then.
    """
    names = (certificate or {}).get("subjectAltName", ())
    uris = [name for kind, name in names if kind == "URI"] if isinstance(names, tuple) else []
    try:
        (uri,) = uris
        identity = SpiffeId.parse(uri)
    except (ValueError, InvalidRequest):
        raise PermissionDenied("the server's certificate names nobody of this cluster") from None
    if identity.kind is not Kind.MANAGER or identity.trust_domain != trust_domain:
        raise PermissionDenied(
            f"the server is {identity}, not a manager of {trust_domain}; check the address"
        )
    return identity
