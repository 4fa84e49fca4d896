"""TLS contexts for both ends, and who a verified certificate names.

TLS 1.3 only. Authorities are the *control intermediates* under VERIFY_X509_PARTIAL_CHAIN, never the
root: with the root loaded a service's certificate passes too. There are no tickets: a resumed
session skips the check of the client's certificate. Revoking live connections is
`cluster.api.peer`'s business.

Importing this module must not import `cryptography`: the command line needs `client_context` within
milliseconds.
"""

import os
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.protocol.errors import InvalidRequest, Unauthenticated
from cluster.protocol.identity import Caller, SpiffeId
from cluster.protocol.server_identity import manager_identity

if TYPE_CHECKING:
    from cryptography import x509

_REHEARSAL_ROUNDS = 8
"""A TLS 1.3 handshake takes three."""


def server_context(
    chain_pem: bytes, key_pem: bytes, client_cas_der: Sequence[bytes] | None
) -> ssl.SSLContext:
    """Return a context to serve with; with `client_cas_der`, clients must show a certificate.

    `chain_pem` holds the leaf, then its intermediate. Raises InvalidRequest if chain and key do not
    match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.num_tickets = 0
    load_chain(context, chain_pem, key_pem)
    if client_cas_der is not None:
        _trust(context, client_cas_der)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    control_cas_der: Sequence[bytes], chain_pem: bytes | None = None, key_pem: bytes | None = None
) -> ssl.SSLContext:
    """Return a context to reach managers with, showing a certificate if one is given.

    Managers are told by their SPIFFE id, not by host name: check `peer_identity_of_server` on every
    connection.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.check_hostname = False
    _trust(context, control_cas_der)
    if chain_pem is not None and key_pem is not None:
        load_chain(context, chain_pem, key_pem)
    return context


def unverified_context() -> ssl.SSLContext:
    """Return a context that believes anyone: to fetch a trust bundle that its digest proves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.verify_flags |= ssl.VERIFY_X509_STRICT


def _trust(context: ssl.SSLContext, authorities_der: Sequence[bytes]) -> None:
    if not authorities_der:
        raise InvalidRequest("a TLS context takes at least one authority to trust")
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=b"".join(authorities_der))


def load_chain(context: ssl.SSLContext, chain_pem: bytes, key_pem: bytes) -> None:
    """Load chain and key, which pass through anonymous memory and never a file system."""
    content = key_pem.rstrip() + b"\n" + chain_pem
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.pwrite(descriptor, content, 0)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError:
        raise InvalidRequest("the certificate chain and its key do not fit together") from None
    finally:
        os.pwrite(descriptor, bytes(len(content)), 0)
        os.close(descriptor)


def peer_identity_of_server(
    connection: ssl.SSLSocket | ssl.SSLObject, trust_domain: str
) -> SpiffeId:
    """Return the manager at the other end of a finished handshake, or raise PermissionDenied."""
    return manager_identity(connection.getpeercert(), trust_domain)


def caller_from_der(der: bytes) -> Caller:
    """Return who a client's leaf names; TLS has verified its chain and dates before.

    Raises Unauthenticated unless the leaf is no authority, is for clients and has exactly one URI
    name, ours.
    """
    # Not at the top: `client_context` must not cost the import.
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    from cluster.pki.unreadable import UNREADABLE  # noqa: PLC0415

    try:
        leaf = x509.load_der_x509_certificate(der)
        identity = _leaf_identity(leaf)
    except (*UNREADABLE, InvalidRequest):
        raise Unauthenticated from None
    return Caller(
        identity=identity,
        serial=leaf.serial_number,
        fingerprint=leaf.fingerprint(hashes.SHA256()).hex(),
        not_after_s=leaf.not_valid_after_utc.timestamp(),
    )


def _leaf_identity(leaf: "x509.Certificate") -> SpiffeId:
    """Return the identity of a client leaf, or raise what `caller_from_der` catches."""
    from cryptography import x509  # noqa: PLC0415  # as above
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    extensions = leaf.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    if constraints.ca or ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise ValueError("not a client's leaf")
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return SpiffeId.parse(uri)


class LiveContext:
    """A server context whose certificate and trust can be swapped; open connections stay.

    The listener keeps `front`; its callback moves each new handshake to the present context.
    OpenSSL keeps the front's flags for it, so a context that demands less or more of clients cannot
    be swapped in.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self.front = context
        self._current = context
        context.sni_callback = self._choose

    @property
    def current(self) -> ssl.SSLContext:
        """The context that new handshakes get."""
        return self._current

    def reload(
        self, context: ssl.SSLContext, rehearsal_client: ssl.SSLContext, trust_domain: str
    ) -> SpiffeId:
        """Swap `context` in and return whom it serves as; call it on the loop's thread.

        First a whole handshake with `rehearsal_client` (the manager's own certificate as client)
        runs in memory: a context that could serve nobody never replaces one that works. Raises
        InvalidRequest or PermissionDenied, and the old context stays.
        """
        if (context.verify_mode, context.verify_flags, context.num_tickets) != (
            self.front.verify_mode,
            self.front.verify_flags,
            self.front.num_tickets,
        ):
            raise InvalidRequest("a live TLS context cannot change what it demands of clients")
        identity = rehearse(context, rehearsal_client, trust_domain)
        self._current = context
        return identity

    def _choose(
        self, connection: ssl.SSLObject, _server_name: str | None, _front: ssl.SSLContext
    ) -> None:
        connection.context = self._current


def rehearse(server: ssl.SSLContext, client: ssl.SSLContext, trust_domain: str) -> SpiffeId:
    """Return whom `server` proves to be in a handshake with `client`, run wholly in memory.

    Raises InvalidRequest if either refuses the other, PermissionDenied if the server is no manager.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    client_end = client.wrap_bio(to_client, to_server)
    done = False
    try:
        for _ in range(_REHEARSAL_ROUNDS):
            # The client is done first; only the server's end says that its certificate passed too.
            client_done = _step(client_end)
            done = _step(server_end) and client_done
            if done:
                break
    except ssl.SSLError as error:
        raise InvalidRequest(f"the new TLS context fails its rehearsal: {error.reason}") from None
    if not done:
        raise InvalidRequest("the new TLS context does not finish a handshake")
    return peer_identity_of_server(client_end, trust_domain)


def _step(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
