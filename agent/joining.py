"""How a node gets its first certificate, and how it comes back after the last one expired.

Owns the two exchanges with a manager's join listener. The token's digest proves the cluster
before the token's secret is sent. Blocking: the command line calls it directly, the agent in a
thread. Source: DESIGN 5.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, TypeVar

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from agent.identity import AgentIdentity, DataDirectory, check_leaf
from cluster.pki import csr
from cluster.pki.join_token import JoinToken
from cluster.pki.tls import client_context, unverified_context
from cluster.pki.trust_bundle import TrustBundle
from cluster.protocol import errors
from cluster.protocol.https_client import Response, request
from cluster.protocol.ids import check_name
from cluster.protocol.undecodable import UNDECODABLE

TIMEOUT_S = 20.0
_Kind = TypeVar("_Kind")
_OK = 200


class _Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a manager answers to a join or a return."""

    node_id: str
    trust_domain: str
    certificate_chain: tuple[bytes, ...]
    bundle: dict[str, Any]  # Any: TrustBundle.from_dict checks it
    managers: tuple[str, ...]
    join_addresses: tuple[str, ...]


class _Problem(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


def join(
    managers: Sequence[str], token: JoinToken, name: str, data: DataDirectory
) -> AgentIdentity:
    """Return the identity of this node after joining by `token` at one of `managers` (host:port).

    Safe to repeat: a node that joined this cluster already stays who it is, and a request whose
    answer was lost is sent again under the same key. Raises PermissionDenied if the cluster is
    not the token's, TokenRefused, Unavailable, AlreadyExists.
    """
    check_name(name)
    data.prepare()
    joined = data.load_identity()
    if joined is not None:
        return _confirm(joined, token)
    trust_domain, bundle = fetch_bundle(managers, token.root_digest)
    pending = data.pending_request()
    body = {"token": token.format(), "csr": _text(pending.csr), "name": name}
    answer = request(
        managers,
        "POST",
        "/v1/join",
        body=msgspec.json.encode(body),
        headers={"content-type": "application/json"},
        context=client_context(bundle.control),
        trust_domain=trust_domain,
        timeout_s=TIMEOUT_S,
    )
    reply, received = _read(answer)
    received.verify(token.root_digest)
    identity = AgentIdentity(
        name=name,
        id=check_leaf(reply.certificate_chain, pending.key, received),
        key=pending.key,
        chain=reply.certificate_chain,
        bundle=received,
        managers=reply.managers,
        join_addresses=reply.join_addresses,
    )
    _settle(data, identity)
    return identity


def come_back(identity: AgentIdentity, data: DataDirectory) -> AgentIdentity:
    """Return the identity with a new certificate, asked for by proof of the old key.

    For a node whose certificate expired. Raises PermissionDenied if the cluster does not take it
    back: join again.
    """
    pending = data.pending_request()
    body = {
        "csr": _text(pending.csr),
        "certificate": _text(identity.chain[0]),
        "signature": _text(csr.sign_return_request(identity.key, pending.csr)),
    }
    answer = request(
        identity.join_addresses,
        "POST",
        "/v1/return",
        body=msgspec.json.encode(body),
        headers={"content-type": "application/json"},
        context=client_context(identity.bundle.control),
        trust_domain=identity.id.trust_domain,
        timeout_s=TIMEOUT_S,
    )
    reply, bundle = _read(answer)
    renewed = identity.with_certificate(pending.key, reply.certificate_chain, bundle)
    renewed = replace(renewed, managers=reply.managers, join_addresses=reply.join_addresses)
    _settle(data, renewed)
    return renewed


def fetch_bundle(managers: Sequence[str], root_digest: str) -> tuple[str, TrustBundle]:
    """Return trust domain and trust bundle from a server nobody vouches for, proven by
    `root_digest`.

    The pinned root carries the trust domain as its organisation.
    """
    answer = request(managers, "GET", "/v1/ca", context=unverified_context(), timeout_s=TIMEOUT_S)
    bundle = TrustBundle.from_dict(_decode(answer, dict[str, Any]))
    bundle.verify(root_digest)
    pinned = next(der for der in bundle.roots if sha256(der).hexdigest() == root_digest)
    subject = x509.load_der_x509_certificate(pinned).subject
    names = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(names) != 1:
        raise errors.MalformedMessage("the cluster's root certificate names no trust domain")
    return str(names[0].value), bundle


def _confirm(joined: AgentIdentity, token: JoinToken) -> AgentIdentity:
    if joined.bundle.root_digest() != token.root_digest:
        raise errors.AlreadyExists(
            f"this node belongs to {joined.id.trust_domain}; name another data directory"
        )
    return joined


def _settle(data: DataDirectory, identity: AgentIdentity) -> None:
    # This order: a crash in between leaves a request that is asked for once too often, never a
    # lost key.
    data.save_identity(identity)
    data.settle_request()


def _read(answer: Response) -> tuple[_Reply, TrustBundle]:
    reply = _decode(answer, _Reply)
    return reply, TrustBundle.from_dict(reply.bundle)


def _decode(answer: Response, kind: type[_Kind]) -> _Kind:
    if answer.status != _OK:
        raise _error(answer)
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except UNDECODABLE:
        raise errors.MalformedMessage("the manager's answer cannot be read; is it one?") from None


def _error(answer: Response) -> errors.ClusterError:
    """Return the error a manager answered with."""
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
    except UNDECODABLE:
        problem = _Problem()
    named = errors.error_of(problem.code, problem.message)
    return named or errors.Unavailable(
        f"the manager answered with status {answer.status}; try again"
    )


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()
