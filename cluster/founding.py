"""Founding a cluster: everything that exists before its first write.

Makes the root key, the keyring, the authorities, the first manager's identity and the first
operator's certificate, as values; starting an engine and writing them is `cluster.manager`'s
business. Nothing here touches a disk.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from cluster.config import Config, host_names
from cluster.control.callers import serial_text
from cluster.pki.ca import (
    Authority,
    issue_leaf,
    new_engine_authority,
    new_intermediate,
    new_root,
    trust_anchor,
)
from cluster.pki.csr import check_csr, key_to_pem, new_key
from cluster.pki.trust_bundle import TrustBundle
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.identity import Kind, SpiffeId
from cluster.protocol.ids import ID_SIZE, check_name, format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.keyring import Keyring, new_keyring
from cluster.seal.unlock import SealFileContents, UnlockKey, unlock_verifier
from cluster.store.records import (
    CLUSTER_ID,
    AuthorityRecord,
    ClusterRecord,
    ManagerRecord,
    ManagerState,
    NameRecord,
    OperatorRecord,
    OperatorRole,
    Record,
    name_id,
)
from cluster.store.records import Kind as RecordKind
from cluster.system import Clock, Entropy

MIN_NODE_TTL_S: Final = 60.0
MAX_NODE_TTL_S: Final = 30 * 86_400.0
MIN_SERVICE_TTL_S: Final = 20.0
MAX_SERVICE_TTL_S: Final = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Founding:
    """What a new cluster starts from."""

    keyring: Keyring
    contents: SealFileContents
    records: tuple[Record, ...]
    reply: dict[str, object]
    """What the founding operator is given: his certificate and how to reach the cluster."""


@dataclass(frozen=True, slots=True)
class Founder:
    """Makes foundings."""

    config: Config
    clock: Clock
    entropy: Entropy

    def found(
        self,
        trust_domain: str,
        unlock_key: UnlockKey,
        operator: str,
        csr: bytes,
        *,
        node_ttl_s: float,
        service_ttl_s: float = 3_600.0,
    ) -> Founding:
        """Return a new cluster whose first operator is `operator`, an admin. Raises
        InvalidRequest."""
        check_name(operator)
        if not MIN_NODE_TTL_S <= node_ttl_s <= MAX_NODE_TTL_S:
            raise InvalidRequest("a node's certificate lives from 60 seconds to 30 days")
        if not MIN_SERVICE_TTL_S <= service_ttl_s <= MAX_SERVICE_TTL_S:
            raise InvalidRequest("a service's certificate lives from 20 seconds to 7 days")
        now = self.clock.now().timestamp()
        root = new_root(trust_domain, self.clock, self.entropy)
        control = new_intermediate(root, "control", trust_domain, self.clock, self.entropy)
        workload = new_intermediate(root, "workload", trust_domain, self.clock, self.entropy)
        cluster = msgspec.structs.replace(
            self._cluster_record(trust_domain, unlock_key, now, node_ttl_s),
            service_ttl_s=service_ttl_s,
        )
        manager, contents = self._manager(cluster, control, now)
        leaf = issue_leaf(
            control,
            check_csr(csr),
            SpiffeId(trust_domain, Kind.OPERATOR, operator),
            timedelta(seconds=cluster.operator_ttl_s),
            self.clock,
            self.entropy,
        )
        operator_record = OperatorRecord(
            id=operator,
            role=OperatorRole.ADMIN,
            created_at=now,
            serials=(serial_text(leaf.serial_number),),
            not_after=leaf.not_valid_after_utc.timestamp(),
        )
        bundle = TrustBundle(
            roots=(_der(root),), control=(_der(control),), workload=(_der(workload),)
        )
        reply: dict[str, object] = {
            "cluster_id": cluster.cluster_id,
            "trust_domain": trust_domain,
            "manager_id": manager.id,
            "name": operator,
            "role": OperatorRole.ADMIN.value,
            "certificate_chain": [leaf.public_bytes(Encoding.DER), _der(control)],
            "bundle": bundle.to_dict(),
            "managers": [self.config.api_address],
            "join_addresses": [self.config.join_address],
        }
        authorities = (
            _authority_record("root", root),
            _authority_record("control", control),
            msgspec.structs.replace(
                _authority_record("workload", workload),
                anchor=trust_anchor(workload, self.entropy).public_bytes(Encoding.DER),
            ),
        )
        return Founding(
            keyring=new_keyring(self.entropy),
            contents=contents,
            records=(
                cluster,
                *authorities,
                manager,
                operator_record,
                # Without its claim the founder's name could be given once more, over his record.
                NameRecord(id=name_id(RecordKind.MANAGER, manager.name), owner=manager.id),
                NameRecord(id=name_id(RecordKind.OPERATOR, operator), owner=operator),
            ),
            reply=reply,
        )

    def _cluster_record(
        self, trust_domain: str, unlock_key: UnlockKey, now: float, node_ttl_s: float
    ) -> ClusterRecord:
        return ClusterRecord(
            id=CLUSTER_ID,
            cluster_id=format_id(self.entropy.token(ID_SIZE)),
            trust_domain=trust_domain,
            created_at=now,
            incarnation_counter=int(now),
            incarnation_unique=format_id(self.entropy.token(ID_SIZE)),
            unlock_verifier=unlock_verifier(unlock_key),
            node_ttl_s=node_ttl_s,
            alive_at=now,
        )

    def _manager(
        self, cluster: ClusterRecord, control: Authority, now: float
    ) -> tuple[ManagerRecord, SealFileContents]:
        manager_id = format_id(self.entropy.token(ID_SIZE))
        key = new_key()
        dns_names, ip_addresses = host_names(self.config.advertise)
        leaf = issue_leaf(
            control,
            key.public_key(),
            SpiffeId(cluster.trust_domain, Kind.MANAGER, manager_id),
            timedelta(seconds=cluster.manager_ttl_s),
            self.clock,
            self.entropy,
            dns_names,
            ip_addresses,
        )
        engine = new_engine_authority(self.clock, self.entropy)
        engine_certificate, engine_key = engine.to_der()
        record = ManagerRecord(
            id=manager_id,
            name=self.config.name,
            state=ManagerState.ACTIVE,
            api_address=self.config.api_address,
            join_address=self.config.join_address,
            peer_address=self.config.peer_address,
            joined_at=now,
            serials=(serial_text(leaf.serial_number),),
        )
        chain = leaf.public_bytes(Encoding.PEM) + control.certificate.public_bytes(Encoding.PEM)
        contents = SealFileContents(
            root_key=SecretBytes(self.entropy.token(32)),
            engine_ca_certificate=engine_certificate,
            engine_ca_key=SecretBytes(engine_key),
            tls_certificate_chain=chain,
            tls_key=SecretBytes(key_to_pem(key)),
            manager_id=manager_id,
            trust_domain=cluster.trust_domain,
            cluster_id=cluster.cluster_id,
        )
        return record, contents


def _authority_record(role: str, authority: Authority) -> AuthorityRecord:
    certificate, key = authority.to_der()
    serial = serial_text(authority.certificate.serial_number)
    return AuthorityRecord(
        id=f"{role}-{serial}", role=role, certificate=certificate, private_key=key
    )


def _der(authority: Authority) -> bytes:
    return authority.certificate.public_bytes(Encoding.DER)
