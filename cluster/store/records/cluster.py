"""Records about the cluster itself: its birth, its authorities, its managers."""

from enum import StrEnum

import msgspec

from cluster.protocol.ids import Incarnation, TokenId
from cluster.store.records.kinds import FORMAT, Kind, Record

CLUSTER_ID = "cluster"


class Outage(msgspec.Struct, frozen=True):
    """A time in which the cluster served nobody.

    A certificate that expired in it may return after its end.
    """

    started_at: float
    ended_at: float


class ClusterRecord(Record, frozen=True, kw_only=True):
    """The one record about the whole cluster; its id is `CLUSTER_ID`."""

    kind = Kind.CLUSTER
    cluster_id: str
    trust_domain: str
    created_at: float
    format: int = FORMAT
    incarnation_counter: int
    incarnation_unique: str
    unlock_verifier: bytes
    """Lets a joining manager check the unlock key without revealing it."""
    node_ttl_s: float = 86_400.0
    operator_ttl_s: float = 30 * 86_400.0
    manager_ttl_s: float = 90 * 86_400.0
    service_ttl_s: float = 3_600.0
    return_grace_s: float = 7 * 86_400.0
    lease_s: float = 60.0
    alive_at: float = 0.0
    """Last sign of life, written every few minutes by the placement holder: a gap is an outage."""
    outages: tuple[Outage, ...] = ()

    @property
    def incarnation(self) -> Incarnation:
        """The store's present life."""
        return Incarnation(self.incarnation_counter, self.incarnation_unique)


class AuthorityRecord(Record, frozen=True, kw_only=True):
    """A certificate authority with its key; id is `<role>-<serial>`."""

    kind = Kind.AUTHORITY
    role: str
    """"root", "control" or "workload"."""
    certificate: bytes
    private_key: bytes
    """PKCS#8 DER; sealed with the record."""
    active: bool = True
    """Signs new certificates; an inactive one is only trusted."""
    anchor: bytes = b""
    """Of a workload authority: the same name and key as a self-signed certificate, which is all
    that services trust. The root would make them trust control certificates too."""

    def __repr__(self) -> str:
        return f"AuthorityRecord(id={self.id!r})"


class ManagerState(StrEnum):
    """A manager's way in and out."""

    PENDING = "pending"
    ACTIVE = "active"
    REMOVING = "removing"
    """Nothing is believed of it any more; its engine member is still to be taken out."""
    REMOVED = "removed"


class PendingJoin(msgspec.Struct, frozen=True):
    """A join that was admitted and may ask again for the same reply until it expires."""

    token_id: TokenId
    public_key_digest: str
    reply: bytes
    """The whole reply: secrets in it are sealed by HPKE to the joiner's key."""
    expires_at: float


class ManagerRecord(Record, frozen=True, kw_only=True):
    """A manager; id is its ManagerId."""

    kind = Kind.MANAGER
    name: str
    state: ManagerState
    api_address: str
    """host:port of the listener that requires a certificate (7443)."""
    join_address: str
    """host:port of the listener for joining (7444)."""
    peer_address: str = ""
    """host:port of the engine's peer listener; empty on SQLite."""
    joined_at: float
    serials: tuple[str, ...] = ()
    """Hex serials of its newest certificate and the one before."""
    pending: PendingJoin | None = None
