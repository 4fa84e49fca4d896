"""Values on their way from the store to a node: portions of one message, and nothing left open."""

from cluster.dispatcher.sealed_values import sealed_values
from cluster.pki.node_envelope import EnvelopeSuite, NodeKeys, Recipient, staged
from cluster.protocol import wire
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import VersionKey
from cluster.system import SystemEntropy

SUITE = EnvelopeSuite.X25519
NODE_KEYS = NodeKeys.generate("node1", (SUITE,))


class Vault:
    """Opens values of given sizes, and keeps what it opened."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes
        self.opened: list[SecretBytes] = []

    def keys(self) -> list[VersionKey]:
        return [VersionKey(str(number), 1) for number in range(len(self.sizes))]

    def open_value(self, key: VersionKey) -> SecretBytes:
        number = int(key.secret_id)
        self.opened.append(SecretBytes(bytes([number + 1]) * self.sizes[number]))
        return self.opened[-1]


def messages_of(vault: Vault) -> list[wire.Values]:
    recipient = Recipient.choose(NODE_KEYS.public_keys(), "node1", "s")
    return sealed_values(vault.keys(), vault.open_value, recipient, SystemEntropy())


def test_messages_hold_every_value_once_and_in_order() -> None:
    vault = Vault(1, 600_000, 500_000, 1, 600_000)
    found = {}
    for message in messages_of(vault):
        assert len(wire.encode(message)) < wire.MAX_MESSAGE_BYTES
        with NODE_KEYS.opening() as open_value:
            for key, value in staged(message, SUITE, "s").items():
                found[key] = open_value(value).reveal()
    assert list(found) == vault.keys()
    assert [len(value) for value in found.values()] == list(vault.sizes)
    assert [value[0] for value in found.values()] == [1, 2, 3, 4, 5]


def test_one_message_takes_what_fits_and_no_more() -> None:
    half = wire.VALUES_PER_MESSAGE_BYTES // 2
    assert [len(m.values) for m in messages_of(Vault(half, half, half))] == [2, 1]
    assert [len(m.values) for m in messages_of(Vault(half, half + 1))] == [1, 1]
    assert messages_of(Vault()) == []


def test_opened_values_are_wiped_once_they_are_sealed() -> None:
    vault = Vault(10, wire.VALUES_PER_MESSAGE_BYTES, 10)
    assert len(messages_of(vault)) == 3
    assert [any(value.reveal()) for value in vault.opened] == [False, False, False]
