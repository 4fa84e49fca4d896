"""The envelope: opens for the node, process, session and slot it was made for, and nothing else."""

from dataclasses import replace

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from cluster.pki import node_envelope
from cluster.pki.node_envelope import EnvelopeSuite, NodeKeys, Recipient, SealedValue, staged
from cluster.protocol import wire
from cluster.protocol.errors import InvalidRequest, OpenFailed
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import EnvelopeKey, Values, VersionKey
from cluster.system import SystemEntropy

NODE, SESSION = "node1", "session1"
FIRST, SECOND = VersionKey("first", 1), VersionKey("second", 7)
CANARY = b"canary-value-0451"
OTHER = b"another-value"

both = pytest.mark.parametrize("suite", list(EnvelopeSuite))


def sealed(keys: NodeKeys, *, node: str = NODE, session: str = SESSION) -> Values:
    recipient = Recipient.choose(keys.public_keys(), node, session)
    values = [(FIRST, SecretBytes(CANARY)), (SECOND, SecretBytes(OTHER))]
    return recipient.seal(values, SystemEntropy())


def opened(keys: NodeKeys, value: SealedValue) -> bytes:
    with keys.opening() as open_value:
        return open_value(value).reveal()


def keys_of(suite: EnvelopeSuite, node: str = NODE) -> NodeKeys:
    return NodeKeys.generate(node, (suite,))


@both
def test_value_opens_where_it_was_sealed_to(suite: EnvelopeSuite) -> None:
    keys = keys_of(suite)
    values = staged(sealed(keys), suite, SESSION)
    assert {key: opened(keys, value) for key, value in values.items()} == {
        FIRST: CANARY,
        SECOND: OTHER,
    }


@both
def test_nothing_on_its_way_shows_the_value(suite: EnvelopeSuite) -> None:
    message = sealed(keys_of(suite))
    assert b"first" in wire.encode(message)
    assert CANARY not in wire.encode(message)
    assert CANARY.decode() not in repr(staged(message, suite, SESSION)) + repr(message)


@both
def test_recorded_value_opens_for_no_other_node_process_or_session(suite: EnvelopeSuite) -> None:
    keys = keys_of(suite)
    value = staged(sealed(keys), suite, SESSION)[FIRST]
    assert opened(keys, value) == CANARY
    with pytest.raises(OpenFailed):  # the same node's next process
        opened(keys_of(suite), value)
    with pytest.raises(OpenFailed):
        opened(keys, replace(value, session_id="session2"))
    # Sealed for the very same key, but for another node: the name is bound in as well.
    stray = staged(sealed(keys, node="node2"), suite, SESSION)[FIRST]
    with pytest.raises(OpenFailed):
        opened(keys, stray)


@both
def test_value_opens_in_no_other_slot(suite: EnvelopeSuite) -> None:
    keys = keys_of(suite)
    values = staged(sealed(keys), suite, SESSION)
    first, second = values[FIRST], values[SECOND]
    assert (opened(keys, first), opened(keys, second)) == (CANARY, OTHER)
    for wrong in (
        replace(first, secret_id="second"),
        replace(first, version=2),
        replace(first, index=1),
        replace(first, sealed=second.sealed),
        replace(first, sealed=second.sealed, index=1),
        replace(first, sealed_key=staged(sealed(keys), suite, SESSION)[FIRST].sealed_key),
        replace(first, sealed=first.sealed[:-1]),
        replace(first, sealed=b""),
        replace(first, sealed_key=b""),
        replace(first, suite="unknown"),
    ):
        with pytest.raises(OpenFailed):
            opened(keys, wrong)


def test_every_message_has_a_key_of_its_own() -> None:
    """Equal values in equal slots of two messages look different."""
    keys = NodeKeys.generate(NODE)
    one, two = sealed(keys), sealed(keys)
    assert one.sealed_key != two.sealed_key
    assert one.values[0].sealed != two.values[0].sealed


def test_strongest_suite_of_both_ends_is_taken_whatever_the_order() -> None:
    offered = NodeKeys.generate(NODE).public_keys()
    assert [key.suite for key in offered] == ["mlkem768-x25519", "x25519"]
    for keys in (offered, offered[::-1]):
        assert Recipient.choose(keys, NODE, SESSION).suite is EnvelopeSuite.HYBRID
    (_, x25519) = offered
    unknown = EnvelopeKey("a-suite-to-come", b"x" * 99)
    assert Recipient.choose((unknown, x25519), NODE, SESSION).suite is EnvelopeSuite.X25519


class NoMlkem:
    """The library where its OpenSSL lacks ML-KEM."""

    @staticmethod
    def generate() -> None:
        raise UnsupportedAlgorithm("ML-KEM-768 is not supported by this backend.")

    from_public_bytes = staticmethod(lambda _data: NoMlkem.generate())


def test_either_end_without_ml_kem_falls_back_to_x25519(monkeypatch: pytest.MonkeyPatch) -> None:
    both_suites = NodeKeys.generate(NODE)
    monkeypatch.setattr(node_envelope, "MLKEM768PrivateKey", NoMlkem)
    classical = NodeKeys.generate(NODE)
    assert [key.suite for key in classical.public_keys()] == ["x25519"]
    message = sealed(classical)
    assert opened(classical, staged(message, "x25519", SESSION)[FIRST]) == CANARY
    monkeypatch.setattr(node_envelope, "MLKEM768PublicKey", NoMlkem)
    recipient = Recipient.choose(both_suites.public_keys(), NODE, SESSION)
    assert recipient.suite is EnvelopeSuite.X25519


@pytest.mark.parametrize(
    "offered",
    [
        (),
        (EnvelopeKey("none", b""),),
        (EnvelopeKey("x25519", b""),),
        (EnvelopeKey("x25519", b"x" * 33),),
        (EnvelopeKey("mlkem768-x25519", b"x" * 32),),
        (EnvelopeKey("mlkem768-x25519", b"\xff" * (1184 + 32)),),
    ],
)
def test_without_a_usable_key_there_is_no_recipient(offered: tuple[EnvelopeKey, ...]) -> None:
    with pytest.raises(InvalidRequest, match="envelope key"):
        Recipient.choose(offered, NODE, SESSION)


def test_key_whose_secret_anybody_can_compute_is_sealed_to_by_nobody() -> None:
    """A point of low order: the exchange gives zeros for every private key."""
    recipient = Recipient.choose((EnvelopeKey("x25519", bytes(32)),), NODE, SESSION)
    with pytest.raises(InvalidRequest, match="envelope key"):
        recipient.seal([(FIRST, SecretBytes(CANARY))], SystemEntropy())
