"""The record envelope, for all records."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.protocol.errors import OpenFailed
from cluster.seal.envelope import MAX_GENERATION, open_record, peek, seal_record
from cluster.seal.keyring import Keyring, new_keyring
from tests.support.entropy import SeededEntropy

KINDS = st.sampled_from(["secret", "secret-value", "service", "node"])
IDS = st.text(max_size=40)
GENERATIONS = st.integers(min_value=0, max_value=MAX_GENERATION)
SEEDS = st.integers(min_value=0, max_value=2**32)
PLAINTEXTS = st.binary(max_size=1_500)


def seal(  # one record of a keyring that has seen `epochs` rotations
    seed: int, kind: str, record_id: str, generation: int, plaintext: bytes, *, epochs: int = 0
) -> tuple[Keyring, bytes, bytes]:
    entropy = SeededEntropy(seed)
    keyring = new_keyring(entropy)
    for _ in range(epochs):
        keyring = keyring.with_new_epoch(entropy)
    engine_key = keyring.engine_key(kind, record_id)
    sealed = seal_record(
        keyring,
        kind=kind,
        engine_key=engine_key,
        generation=generation,
        plaintext=plaintext,
        entropy=entropy,
    )
    return keyring, engine_key, sealed


@given(SEEDS, KINDS, IDS, GENERATIONS, PLAINTEXTS, st.integers(min_value=0, max_value=5))
def test_a_record_opens_to_what_went_in(
    seed: int, kind: str, record_id: str, generation: int, plaintext: bytes, epochs: int
) -> None:
    keyring, engine_key, sealed = seal(seed, kind, record_id, generation, plaintext, epochs=epochs)
    opened = open_record(keyring, kind=kind, engine_key=engine_key, sealed=sealed)
    assert (opened.generation, opened.plaintext) == (generation, plaintext)
    assert opened.epoch == keyring.current == peek(sealed).epoch
    assert peek(sealed).generation == generation


@given(SEEDS, PLAINTEXTS, st.data())
def test_no_change_goes_unnoticed(seed: int, plaintext: bytes, data: st.DataObject) -> None:
    keyring, engine_key, sealed = seal(seed, "secret", "one", 1, plaintext)
    at = data.draw(st.integers(min_value=0, max_value=len(sealed) - 1))
    removed = data.draw(st.integers(min_value=0, max_value=min(40, len(sealed) - at)))
    tampered = sealed[:at] + data.draw(st.binary(max_size=40)) + sealed[at + removed :]
    assume(tampered != sealed)
    with pytest.raises(OpenFailed):
        open_record(keyring, kind="secret", engine_key=engine_key, sealed=tampered)


@given(SEEDS, KINDS, IDS, KINDS, IDS)
def test_a_record_opens_in_its_own_place_only(
    seed: int, kind: str, record_id: str, other_kind: str, other_id: str
) -> None:
    assume((kind, record_id) != (other_kind, other_id))
    keyring, engine_key, sealed = seal(seed, kind, record_id, 1, b"value")
    other_key = keyring.engine_key(other_kind, other_id)
    assert other_key != engine_key
    with pytest.raises(OpenFailed):
        open_record(keyring, kind=other_kind, engine_key=other_key, sealed=sealed)
    with pytest.raises(OpenFailed):
        open_record(keyring, kind=kind, engine_key=other_key, sealed=sealed)


@given(SEEDS, st.binary(max_size=600))
def test_no_other_bytes_are_a_record(seed: int, candidate: bytes) -> None:
    keyring, engine_key, _ = seal(seed, "secret", "one", 1, b"")
    with pytest.raises(OpenFailed):
        open_record(keyring, kind="secret", engine_key=engine_key, sealed=candidate)
