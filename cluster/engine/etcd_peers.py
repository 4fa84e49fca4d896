"""Who a member's peers are, asked of its peer listener: without a quorum etcd serves no client.

Owns that one question. A member's own view may be old: it tells a person how many managers are
still missing, and whose cluster a member belongs to. Source: etcd's `/members` handler of the peer
listener, which names the cluster in a header.
"""

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path

from cluster.protocol.errors import Unavailable

TIMEOUT_S = 2.0
ANSWER_LIMIT = 1_000_000
CLUSTER_HEADER = "X-Etcd-Cluster-ID"
_OK = 200


@dataclass(frozen=True, slots=True)
class PeerView:
    """What one member says of its cluster."""

    cluster_id: str
    """etcd's own name of the cluster, hex."""
    voters: tuple[str, ...]
    """host:port of every voter."""


def fetch_view(peer_address: str, identity_pem: Path, ca_pem: bytes) -> PeerView:
    """Return what the member at `peer_address` knows. Blocking.

    `identity_pem`: certificate and key of the engine's own authority; only a member that shows one
    of the same authority is believed. Raises Unavailable.
    """
    host, _, port = peer_address.rpartition(":")
    context = ssl.create_default_context(cadata=ca_pem.decode("ascii"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # what etcd's older releases speak
    context.load_cert_chain(identity_pem)
    connection = http.client.HTTPSConnection(
        host.strip("[]"), int(port), timeout=TIMEOUT_S, context=context
    )
    try:
        connection.request("GET", "/members")
        answer = connection.getresponse()
        content = answer.read(ANSWER_LIMIT)
        voters = voters_in(content) if answer.status == _OK else ()
        return PeerView(answer.getheader(CLUSTER_HEADER, ""), voters)
    except (OSError, http.client.HTTPException, ValueError):
        raise Unavailable("the storage engine does not answer; see the manager's log") from None
    finally:
        connection.close()


def voters_in(content: bytes) -> tuple[str, ...]:
    """Return the addresses in a member's answer that vote. Raises ValueError if it is none."""
    try:
        return tuple(
            str(member["peerURLs"][0]).removeprefix("https://")
            for member in json.loads(content)
            if not member.get("isLearner")
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError("the answer does not list members") from None
