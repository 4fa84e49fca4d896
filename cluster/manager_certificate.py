"""The manager's own TLS certificate: fresh before it serves, renewed while it runs, swapped without
a restart.

A manager holds the control authority's key, so it can issue its own, whatever became of the old one
while it was switched off. The record comes first: the new serial is committed before the
certificate is used.
"""

import asyncio
import ssl
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.config import Config
from cluster.control.issuing import trust_bundle
from cluster.control.managers import Managers
from cluster.control.policy import Principal
from cluster.pki.audit_statement import AuditStatement, sign
from cluster.pki.csr import key_to_pem, make_csr, new_key
from cluster.pki.renewal import renew_at
from cluster.pki.tls import LiveContext, client_context, server_context
from cluster.protocol.errors import ClusterError, Unavailable
from cluster.protocol.ids import ManagerId
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.unlock import SealFileContents, SealKey, rewrite_seal_file
from cluster.store.sealed_store import SealedStore
from cluster.system import Clock, Entropy

log = structlog.get_logger(__name__)

LOOK_S: Final = 30.0
RETRY_S: Final = 10.0


@dataclass(slots=True)
class ManagerCertificate:
    """Keeps this manager's certificate valid and the listeners' contexts current."""

    config: Config
    contents: SealFileContents
    seal_key: SealKey
    store: SealedStore
    managers: Managers
    principal: Principal
    clock: Clock
    entropy: Entropy
    api_context: LiveContext = field(init=False)
    """Requires a client certificate of the control authorities."""
    join_context: LiveContext = field(init=False)
    _renew_at: datetime = field(default=datetime.min.replace(tzinfo=UTC))
    _not_after: datetime = field(default=datetime.min.replace(tzinfo=UTC))
    _in_force: tuple[bytes, tuple[bytes, ...]] = (b"", ())

    def ends_at_s(self) -> float:
        """Return when the certificate in use ends, in Unix seconds."""
        return self._not_after.timestamp()

    def sign(self, statement: AuditStatement) -> bytes:
        """Return the file of an audit statement, signed with the key of the certificate in use."""
        chain, _ = self._current()
        root = trust_bundle(self.store.view).roots[0]
        return sign(statement, self.contents.tls_key.reveal(), chain, root)

    async def ensure_fresh(self) -> None:
        """Renew the certificate if its time has come, and build the contexts to serve with."""
        self._plan()
        while self.clock.now() >= self._renew_at:
            try:
                await self._renew()
            except Unavailable as error:
                log.warning("certificate.renewal_postponed", code=error.code)
                if self.clock.now() < self._not_after:
                    break  # it is still good, and `run` tries again
                await asyncio.sleep(RETRY_S)
        api, join = self._contexts()
        self.api_context, self.join_context = LiveContext(api), LiveContext(join)
        self._in_force = self._current()

    async def run(self) -> None:
        """Renew whenever it is due, and follow changes of the trust bundle."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.look()
            except ClusterError as error:
                log.warning("certificate.renewal_postponed", code=error.code)
                await asyncio.sleep(RETRY_S)

    async def look(self) -> None:
        """Renew the certificate if it is due, and serve with whatever changed."""
        if self.clock.now() >= self._renew_at:
            await self._renew()
        if self._in_force != self._current():
            self._swap()

    def _current(self) -> tuple[bytes, tuple[bytes, ...]]:
        """Return what the contexts should be made of: the own chain and the trusted authorities."""
        return self.contents.tls_certificate_chain, trust_bundle(self.store.view).control

    def _contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        chain, trusted = self._current()
        key = self.contents.tls_key.reveal()
        return server_context(chain, key, trusted), server_context(chain, key, None)

    def _plan(self) -> None:
        leaf = x509.load_pem_x509_certificates(self.contents.tls_certificate_chain)[0]
        self._not_after = leaf.not_valid_after_utc
        draw = self.entropy.uniform(0.0, 1.0)
        self._renew_at = renew_at(leaf.not_valid_before_utc, leaf.not_valid_after_utc, draw)

    async def _renew(self) -> None:
        key = new_key()
        issued = await self.managers.renew(
            self.principal, ManagerId(self.contents.manager_id), make_csr(key)
        )
        pem = b"".join(
            x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in issued.chain
        )
        self.contents = replace(
            self.contents, tls_certificate_chain=pem, tls_key=SecretBytes(key_to_pem(key))
        )
        await asyncio.to_thread(
            rewrite_seal_file, self.config.seal_file, self.seal_key, self.contents, self.entropy
        )
        self._plan()
        log.info("certificate.renewed", manager_id=self.contents.manager_id)

    def _swap(self) -> None:
        chain, trusted = self._current()
        rehearsal = client_context(trusted, chain, self.contents.tls_key.reveal())
        api, join = self._contexts()
        self.api_context.reload(api, rehearsal, self.contents.trust_domain)
        self.join_context.reload(join, rehearsal, self.contents.trust_domain)
        self._in_force = chain, trusted
