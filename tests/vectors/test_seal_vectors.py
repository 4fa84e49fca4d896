"""Known answers for the primitives, and stored bytes of every seal format, kept for ever.

A file named `*_v1.json` is never regenerated: when a format changes, a new file joins it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal import aead
from cluster.seal.envelope import open_record
from cluster.seal.keyring import Keyring
from cluster.seal.unlock import SealFileContents, UnlockKey, open_seal_file, unlock_verifier

HERE = Path(__file__).parent

Vector = dict[str, Any]  # JSON, each file with keys of its own


def load(name: str) -> Vector:
    vector: Vector = json.loads((HERE / name).read_text())
    return vector


def cases(name: str) -> list[Vector]:
    found: list[Vector] = load(name)["cases"]
    assert found
    return found


def secret(hex_text: str) -> SecretBytes:
    return SecretBytes(bytes.fromhex(hex_text))


def keyring_of(vector: Vector) -> Keyring:
    epochs = {int(epoch): secret(key) for epoch, key in vector["epochs"].items()}
    return Keyring(secret(vector["index_key"]), epochs, vector["current"])


@pytest.mark.parametrize("case", cases("rfc5869_hkdf_sha256.json"))
def test_hkdf_gives_the_answers_of_rfc_5869(case: Vector) -> None:
    derived = aead.derive(
        secret(case["ikm"]),
        bytes.fromhex(case["salt"]),
        bytes.fromhex(case["info"]),
        case["size"],
    )
    assert derived.reveal().hex() == case["okm"]


@pytest.mark.parametrize("case", cases("nist_aes_256_gcm.json"))
def test_aes_gcm_gives_the_answers_of_nist(case: Vector) -> None:
    key, nonce = secret(case["key"]), bytes.fromhex(case["nonce"])
    plaintext, associated = bytes.fromhex(case["plaintext"]), bytes.fromhex(case["associated"])
    assert aead.seal(key, nonce, plaintext, associated).hex() == case["sealed"]
    assert aead.open_(key, nonce, bytes.fromhex(case["sealed"]), associated) == plaintext


def test_hmac_gives_the_answer_of_rfc_4231() -> None:
    blinded = aead.blind(SecretBytes(b"Jefe"), b"what do ya want for nothing?")
    assert blinded.hex() == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


@pytest.mark.parametrize("case", cases("rfc9180_hpke_x25519_aes_256_gcm.json"))
def test_our_hpke_suite_opens_the_message_of_rfc_9180(case: Vector) -> None:
    # The published message has associated data, which only this entry of the library takes.
    opened = openssl.hpke._decrypt_with_aad(
        aead.HPKE_SUITE,
        bytes.fromhex(case["enc"] + case["ciphertext"]),
        X25519PrivateKey.from_private_bytes(bytes.fromhex(case["private_key"])),
        bytes.fromhex(case["info"]),
        bytes.fromhex(case["associated"]),
    )
    assert opened.hex() == case["plaintext"]


def test_hpke_messages_of_format_1_open() -> None:
    vector = load("hpke_message_v1.json")
    opened = aead.hpke_open(
        secret(vector["private_key"]),
        vector["purpose"],
        bytes.fromhex(vector["context"]),
        bytes.fromhex(vector["sealed"]),
    )
    assert opened == secret(vector["plaintext"])


@pytest.mark.parametrize("case", cases("sealed_record_v1.json"))
def test_records_of_format_1_open(case: Vector) -> None:
    keyring = keyring_of(load("sealed_record_v1.json"))
    engine_key = keyring.engine_key(case["kind"], case["id"])
    assert engine_key.hex() == case["engine_key"]
    opened = open_record(
        keyring, kind=case["kind"], engine_key=engine_key, sealed=bytes.fromhex(case["sealed"])
    )
    assert opened.plaintext.hex() == case["plaintext"]
    assert (opened.generation, opened.epoch) == (case["generation"], case["epoch"])


def test_stream_keys_stay_what_they_were() -> None:
    vector = load("sealed_record_v1.json")
    stream = vector["stream"]
    key = keyring_of(vector).stream_key(stream["stream"], stream["sequence"])
    assert key.hex() == stream["stream_key"]


def test_keyrings_of_format_1_unwrap() -> None:
    vector = load("wrapped_keyring_v1.json")
    keyring = Keyring.unwrap(secret(vector["root_key"]), bytes.fromhex(vector["wrapped"]))
    assert keyring == keyring_of(vector)


def test_seal_files_of_format_1_open(tmp_path: Path) -> None:
    vector = load("seal_file_v1.json")
    path = tmp_path / "seal"
    path.write_bytes(bytes.fromhex(vector["file"]))
    unlock_key = UnlockKey.parse(SecretBytes(vector["unlock_key"].encode()))
    assert unlock_key == UnlockKey(secret(vector["unlock_key_hex"]))
    contents, _ = open_seal_file(path, unlock_key)
    assert contents == contents_of(vector["contents"])
    assert unlock_verifier(unlock_key).hex() == vector["verifier"]


def contents_of(vector: Vector) -> SealFileContents:
    return SealFileContents(
        root_key=secret(vector["root_key"]),
        engine_ca_certificate=bytes.fromhex(vector["engine_ca_certificate"]),
        engine_ca_key=secret(vector["engine_ca_key"]),
        tls_certificate_chain=bytes.fromhex(vector["tls_certificate_chain"]),
        tls_key=secret(vector["tls_key"]),
        manager_id=vector["manager_id"],
        trust_domain=vector["trust_domain"],
        cluster_id=vector["cluster_id"],
        pending=secret(vector["pending"]),
    )
