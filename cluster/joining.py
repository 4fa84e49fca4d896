"""The joining side of a manager's way in.

The keys a joiner makes are stored before it asks, in a seal file that holds nothing else yet, so
that a repeated ask is made under the same keys and gets the same reply. What comes back is proven
by the token's digest of the root.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.config import Config
from cluster.membership import JOIN_PURPOSE, JoinSecrets
from cluster.pki.csr import key_from_pem, key_to_pem, make_csr, new_key
from cluster.pki.join_token import JoinToken
from cluster.pki.tls import client_context, unverified_context
from cluster.pki.trust_bundle import TrustBundle
from cluster.pki.unreadable import UNREADABLE
from cluster.protocol.errors import MalformedMessage, PermissionDenied, Unavailable, error_of
from cluster.protocol.https_client import Response, request
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.aead import hpke_keypair, hpke_open
from cluster.seal.unlock import (
    SealFileContents,
    SealKey,
    UnlockKey,
    create_seal_file,
    open_seal_file,
    rewrite_seal_file,
    unlock_verifier,
)
from cluster.system import Entropy

ASK_TIMEOUT_S: Final = 30.0
HTTP_ERROR: Final = 400
_LET_IN_BEFORE: Final = (
    "the token is refused, but this manager was let in before: run `strongroom unlock`. If its "
    "join is not complete, join with an empty data directory and a new token"
)


class _Pending(msgspec.Struct, frozen=True):
    """The keys of a join that is under way."""

    hpke_private: bytes
    hpke_public: bytes

    def __repr__(self) -> str:
        return "_Pending(<redacted>)"


class _Reply(msgspec.Struct, frozen=True):
    """What a joiner is told; bytes come as base64."""

    manager_id: str
    trust_domain: str
    sealed: bytes
    certificate_chain: tuple[bytes, ...]
    managers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A joiner that was let in and is not part of the engine yet."""

    contents: SealFileContents
    seal_key: SealKey
    bundle: TrustBundle
    managers: tuple[str, ...]
    """host:port of the API listeners of the managers that are in."""


@dataclass(frozen=True, slots=True)
class Joiner:
    """Asks to be let in. Blocking: run it in a thread."""

    config: Config
    entropy: Entropy

    def ask(
        self, token: JoinToken, unlock_key: UnlockKey, join_addresses: tuple[str, ...]
    ) -> Admitted:
        """Return what the cluster gave this manager; safe to repeat until the join has expired."""
        contents, seal_key, pending = self._keys(unlock_key)
        bundle = fetch_bundle(token, join_addresses)
        asked = self._request(token, unlock_key, contents, pending)
        try:
            reply = _json(
                request(
                    join_addresses,
                    "POST",
                    "/v1/join-manager",
                    body=asked,
                    headers={"content-type": "application/json"},
                    context=client_context(bundle.control),
                    timeout_s=ASK_TIMEOUT_S,
                )
            )
        except PermissionDenied:
            if contents.manager_id:
                # Let in under these keys, and stopped later: in the middle, or when it was a voter.
                raise PermissionDenied(_LET_IN_BEFORE) from None
            # Nothing was granted under these keys; the next try may come with another unlock key.
            self.config.seal_file.unlink()
            raise
        key = SecretBytes(pending.hpke_private)
        try:
            admitted = msgspec.convert(reply, _Reply)
            chain = _pem(admitted.certificate_chain)
            opened = hpke_open(key, JOIN_PURPOSE, pending.hpke_public, admitted.sealed)
            secrets = msgspec.msgpack.decode(opened.reveal(), type=JoinSecrets)
        except (msgspec.MsgspecError, *UNREADABLE):
            # Without its cause, which may quote what was sealed.
            raise MalformedMessage(
                "the manager's answer does not fit; run the same release here as there, then join "
                "again"
            ) from None
        complete = SealFileContents(
            root_key=SecretBytes(secrets.root_key),
            engine_ca_certificate=secrets.engine_ca_certificate,
            engine_ca_key=SecretBytes(secrets.engine_ca_key),
            tls_certificate_chain=chain,
            tls_key=contents.tls_key,
            manager_id=admitted.manager_id,
            trust_domain=admitted.trust_domain,
            cluster_id=secrets.cluster_id,
            pending=contents.pending,
        )
        rewrite_seal_file(self.config.seal_file, seal_key, complete, self.entropy)
        return Admitted(complete, seal_key, bundle, admitted.managers)

    def _request(
        self,
        token: JoinToken,
        unlock_key: UnlockKey,
        contents: SealFileContents,
        pending: "_Pending",
    ) -> bytes:
        csr = make_csr(key_from_pem(contents.tls_key.reveal()))
        asked = {
            "token": token.format(),
            "csr": csr,
            "hpke_key": pending.hpke_public,
            "unlock_verifier": unlock_verifier(unlock_key),
            "name": self.config.name,
            "api_address": self.config.api_address,
            "join_address": self.config.join_address,
            "peer_address": self.config.peer_address,
        }
        return msgspec.json.encode(asked)

    def become_learner(self, admitted: Admitted, *, fresh: bool) -> tuple[dict[str, str], bool]:
        """Have this manager's member added; return name -> peer address of all members, and
        whether it was added anew.

        `fresh`: it has no data, whatever the members remember of it.
        """
        reply = self._call(admitted, "/v1/managers/learner", {"fresh": fresh})
        members = reply.get("initial_cluster")
        if not isinstance(members, dict):
            raise Unavailable("the manager's answer names no members")
        return {str(name): str(peer) for name, peer in members.items()}, bool(reply.get("added"))

    def become_voter(self, admitted: Admitted) -> None:
        """Have the member promoted; raises Unavailable until it has caught up."""
        self._call(admitted, "/v1/managers/promote", {})

    def _call(self, admitted: Admitted, path: str, body: Mapping[str, object]) -> dict[str, object]:
        """Call a manager with the joiner's new certificate."""
        contents = admitted.contents
        context = client_context(
            admitted.bundle.control, contents.tls_certificate_chain, contents.tls_key.reveal()
        )
        return _json(
            request(
                admitted.managers,
                "POST",
                path,
                body=msgspec.json.encode(body),
                headers={"content-type": "application/json"},
                context=context,
                trust_domain=contents.trust_domain,
                timeout_s=ASK_TIMEOUT_S,
            )
        )

    def complete(self, admitted: Admitted) -> SealFileContents:
        """Drop the keys of the join from the seal file; the manager is one of them now."""
        contents = replace(admitted.contents, pending=SecretBytes(b""))
        rewrite_seal_file(self.config.seal_file, admitted.seal_key, contents, self.entropy)
        return contents

    def _keys(self, unlock_key: UnlockKey) -> tuple[SealFileContents, SealKey, _Pending]:
        if self.config.seal_file.exists():
            contents, seal_key = open_seal_file(self.config.seal_file, unlock_key)
            if not contents.pending:
                raise PermissionDenied(
                    "this manager has joined a cluster already; run `strongroom unlock`, or join "
                    "with an empty data directory"
                )
            return (
                contents,
                seal_key,
                msgspec.msgpack.decode(contents.pending.reveal(), type=_Pending),
            )
        pair = hpke_keypair()
        pending = _Pending(pair.private_key.reveal(), pair.public_key)
        contents = SealFileContents(
            root_key=SecretBytes(b""),
            engine_ca_certificate=b"",
            engine_ca_key=SecretBytes(b""),
            tls_certificate_chain=b"",
            tls_key=SecretBytes(key_to_pem(new_key())),
            manager_id="",
            trust_domain="",
            cluster_id="",
            pending=SecretBytes(msgspec.msgpack.encode(pending)),
        )
        seal_key = create_seal_file(self.config.seal_file, unlock_key, contents, self.entropy)
        return contents, seal_key, pending


def fetch_bundle(token: JoinToken, join_addresses: tuple[str, ...]) -> TrustBundle:
    """Return the trust bundle of the cluster a token names; whoever answered, the token's digest
    proves it."""
    reply = _json(
        request(
            join_addresses,
            "GET",
            "/v1/ca",
            body=None,
            headers={},
            context=unverified_context(),
            timeout_s=ASK_TIMEOUT_S,
        )
    )
    bundle = TrustBundle.from_dict(reply)
    bundle.verify(token.root_digest)
    return bundle


def _json(response: Response) -> dict[str, object]:
    try:
        content = dict(json.loads(response.body))
    except (ValueError, TypeError, RecursionError):
        raise Unavailable("the manager's answer is not JSON; is this a join address?") from None
    if response.status >= HTTP_ERROR:
        named = error_of(content.get("code"), content.get("message"))
        raise named or Unavailable(f"the manager answered with status {response.status}")
    return content


def _pem(chain: tuple[bytes, ...]) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)
