"""Node certificates that live a minute: renewed over a second session while secrets rotate."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from cryptography import x509

from cluster.protocol import wire
from tests.support.attacker import RawSession
from tests.support.running import Credential, RunningCluster, empty_cluster, wait_until

NODE_TTL_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """One manager on SQLite whose node certificates live a minute, and one agent."""
    with empty_cluster() as running:
        running.found(node_ttl_s=NODE_TTL_S)
        running.add_agent()
        yield running


def _read_on(session: RawSession, received: list[wire.FromManager]) -> None:
    """Read until the manager ends the session."""
    while (message := session.receive(2 * NODE_TTL_S)) is not None:
        received.append(message)


@pytest.mark.slow
def test_no_message_is_lost_while_a_certificate_is_renewed(cluster: RunningCluster) -> None:
    """Rotations before, during and after a renewal all arrive, each before its command returns; a
    session under the first certificate is open until that ends, and no longer."""
    (agent,) = cluster.agents
    first = Credential.of_node(agent.data_dir)
    not_after = x509.load_pem_x509_certificate(first.chain_pem).not_valid_after_utc
    received: list[wire.FromManager] = []
    cluster.create_secret("renewed", b"0")
    cluster.create_service("renewed", 27_001, "renewed")
    idle = RawSession(cluster.managers[0], first)
    try:
        idle.hello()
        reading = threading.Thread(target=_read_on, args=(idle, received))
        reading.start()
        number, opened = 0, agent.text().count("link.opened")
        while agent.text().count("identity.renewed") < 1 or number < 20:
            number += 1
            cluster.rotate("renewed", str(number).encode())
            assert agent.read("renewed", "renewed") == str(number).encode()
            time.sleep(0.1)
            assert datetime.now(UTC) < not_after, "renewed at 50 to 80 % of its life"
        wait_until(lambda: '"reason": "renewed"' in agent.text(), "the first session is closed")
        for _ in range(5):
            number += 1
            cluster.rotate("renewed", str(number).encode())
            assert agent.read("renewed", "renewed") == str(number).encode()
        assert agent.text().count("link.opened") == opened + 1
        assert "session.lost" not in agent.text()
        renewed = Credential.of_node(agent.data_dir)
        assert renewed.chain_pem != first.chain_pem
        assert renewed.key_pem != first.key_pem, "a new certificate is for a new key"

        assert reading.is_alive(), "its certificate has not ended yet"
        reading.join()
        assert any(isinstance(message, wire.Snapshot) for message in received)
        assert datetime.now(UTC) >= not_after
    finally:
        idle.close()
    assert agent.running
    cluster.rotate("renewed", b"last")
    assert agent.read("renewed", "renewed") == b"last"
