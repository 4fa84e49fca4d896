"""Becoming an operator on this machine: by a one-time token, or as root of a manager.

The cluster is proven by the digest in the token before the token's secret is sent.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cluster.cli import admin_socket
from cluster.cli.answers import Answer, parse
from cluster.cli.context_files import Context, ContextFiles
from cluster.cli.credentials import json_body, pinned_root, request_text
from cluster.cli.failures import error_of
from cluster.cli.renewal import context_of
from cluster.cli.settings import read_settings
from cluster.protocol.errors import AlreadyExists, MalformedMessage
from cluster.protocol.https_client import Response, request
from cluster.protocol.ids import check_name
from cluster.protocol.secret_bytes import SecretBytes
from cluster.system import SystemEntropy

if TYPE_CHECKING:
    from cluster.pki.trust_bundle import TrustBundle

TIMEOUT_S: Final = 20.0
DEFAULT_NAME: Final = "default"


def enrol(managers: Sequence[str], token_text: SecretBytes, name: str | None) -> Context:
    """Return the context written for the operator whom the token names.

    Safe to repeat while an answer was lost: the key is stored first and asked for again.
    """
    from cluster.pki.tls import client_context

    files = ContextFiles(read_settings())
    wanted = new_name(files, name)
    root_digest = pinned_root(token_text)
    trust_domain, bundle = _proven_bundle(managers, root_digest)
    key_pem = files.pending_key(wanted)
    response = request(
        managers,
        "POST",
        "/v1/enrol",
        body=json_body({"csr": request_text(key_pem)}, token=token_text).reveal(),
        headers={"content-type": "application/json"},
        context=client_context(bundle.control),
        trust_domain=trust_domain,
        timeout_s=TIMEOUT_S,
    )
    return keep(files, wanted, _checked(response), key_pem, root_digest)


def renew_as_root(socket_path: str, operator: str, name: str | None) -> Context:
    """Return the context of an operator whom the local manager gave a new certificate."""
    files = ContextFiles(read_settings())
    wanted = check_name(name or _context_of(files, operator) or DEFAULT_NAME)
    if files.exists(wanted) and files.load(wanted).operator != operator:
        raise AlreadyExists(f"context {wanted} is another operator's; name one with --context")
    key_pem = files.pending_key(wanted)
    body = json_body({"name": check_name(operator), "csr": request_text(key_pem)})
    reply = admin_socket.call(socket_path, "POST", "/admin/operator-renew", body)
    return keep(files, wanted, reply, key_pem)


def new_name(files: ContextFiles, name: str | None) -> str:
    """Return the name of a context to be written, or raise AlreadyExists."""
    wanted = check_name(name or DEFAULT_NAME)
    if files.exists(wanted):
        raise AlreadyExists(
            f"there is a context {wanted} already; name another with --context, "
            f"or remove it with `strongroom context rm {wanted}`"
        )
    return wanted


def keep(
    files: ContextFiles,
    name: str,
    reply: Answer,
    key_pem: SecretBytes,
    root_digest: str | None = None,
) -> Context:
    """Write the context that a reply makes, and use it if it is the first."""
    is_first = not files.names()
    context = context_of(name, reply, key_pem, SystemEntropy(), root_digest)
    files.save(context)
    if is_first:
        files.use(name)
    return context


def _proven_bundle(managers: Sequence[str], root_digest: str) -> "tuple[str, TrustBundle]":
    """Return trust domain and bundle from a server nobody vouches for, proven by the digest.

    The pinned root carries the trust domain as its organisation.
    """
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    from cluster.pki.tls import unverified_context
    from cluster.pki.trust_bundle import TrustBundle

    response = request(managers, "GET", "/v1/ca", context=unverified_context(), timeout_s=TIMEOUT_S)
    bundle = TrustBundle.from_dict(_checked(response))
    bundle.verify(root_digest)
    pinned = next(der for der in bundle.roots if sha256(der).hexdigest() == root_digest)
    subject = x509.load_der_x509_certificate(pinned).subject
    names = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    if len(names) != 1:
        raise MalformedMessage("the cluster's root certificate names no trust domain")
    return str(names[0].value), bundle


def _checked(response: Response) -> Answer:
    error = error_of(response.status, response.body)
    if error is not None:
        raise error
    return parse(response.body)


def _context_of(files: ContextFiles, operator: str) -> str | None:
    return next((name for name in files.names() if files.load(name).operator == operator), None)
