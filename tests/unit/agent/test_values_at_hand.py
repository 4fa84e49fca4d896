"""Values between their envelope and the mount: opened for the files at hand, and wiped behind."""

import pytest

from agent.values_at_hand import ValuesAtHand
from cluster.pki.node_envelope import EnvelopeSuite, NodeKeys, Recipient, SealedValue, staged
from cluster.protocol.errors import MountRefused
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import FileSpec, VersionKey
from cluster.system import SystemEntropy

KEYS = NodeKeys.generate("node1", (EnvelopeSuite.X25519,))
FIRST, SECOND = VersionKey("first", 1), VersionKey("second", 1)


def file(name: str) -> FileSpec:
    return FileSpec(name, name, name, 1, None, None, 0o440, wipe_on_lease_loss=False)


def sealed(*names: str, node: str = "node1") -> dict[VersionKey, SealedValue]:
    recipient = Recipient.choose(KEYS.public_keys(), node, "s")
    values = [(VersionKey(name, 1), SecretBytes(name.encode())) for name in names]
    return staged(recipient.seal(values, SystemEntropy()), EnvelopeSuite.X25519, "s")


def test_values_are_opened_for_the_block_and_wiped_behind_it() -> None:
    with KEYS.opening() as open_value:
        at_hand = ValuesAtHand(sealed("first", "second"), open_value, {})
        with at_hand.of([file("first"), file("first")]) as values:
            assert {key: value.reveal() for key, value in values.items()} == {FIRST: b"first"}
            kept = values[FIRST]
        assert not any(kept.reveal())
        with at_hand.of([file("first")]) as again:
            assert again[FIRST].reveal() == b"first"


def test_what_rests_in_a_mount_is_used_and_left_to_its_reader() -> None:
    resting = {FIRST: SecretBytes(b"resting")}
    with KEYS.opening() as open_value:
        at_hand = ValuesAtHand(sealed("second"), open_value, resting)
        with at_hand.of([file("first"), file("second")]) as values:
            assert values[FIRST].reveal() == b"resting"
    assert resting[FIRST].reveal() == b"resting"


def test_value_that_has_not_come_is_named() -> None:
    with KEYS.opening() as open_value:
        at_hand = ValuesAtHand({}, open_value, {})
        with (
            pytest.raises(MountRefused, match="first has not arrived"),
            at_hand.of([file("first")]),
        ):
            pass
    assert at_hand.unopened == ()


def test_value_that_does_not_open_is_named_and_noted_and_the_others_are_wiped() -> None:
    mixed = {**sealed("first"), **sealed("second", node="node2")}
    opened: list[SecretBytes] = []
    with KEYS.opening() as open_value:

        def watched(value: SealedValue) -> SecretBytes:
            opened.append(open_value(value))
            return opened[-1]

        at_hand = ValuesAtHand(mixed, watched, {})
        files = [file("first"), file("second")]
        with pytest.raises(MountRefused, match="second was not sealed"), at_hand.of(files):
            pass
    assert at_hand.unopened == (SECOND,)
    assert [any(value.reveal()) for value in opened] == [False]
