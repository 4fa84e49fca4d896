"""The unlock key's text and the seal file."""

import hashlib
import stat
from dataclasses import fields, replace
from pathlib import Path

import pytest

from cluster.protocol.errors import (
    AlreadyExists,
    IntegrityError,
    InvalidRequest,
    InvariantViolation,
    NotFound,
    PermissionDenied,
)
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal import aead, unlock
from cluster.seal.unlock import (
    SealFileContents,
    UnlockKey,
    create_seal_file,
    matches_verifier,
    open_seal_file,
    rewrite_seal_file,
    unlock_verifier,
)
from tests.support.entropy import SeededEntropy

SLOT = slice(8, 100)
DIGEST_SIZE = 32
CONTENTS = SealFileContents(
    root_key=SecretBytes(b"R" * 32),
    engine_ca_certificate=b"engine ca certificate",
    engine_ca_key=SecretBytes(b"engine ca key in clear"),
    tls_certificate_chain=b"tls certificate chain",
    tls_key=SecretBytes(b"tls key in clear"),
    manager_id="manager-one",
    trust_domain="lab.test",
    cluster_id="cluster-one",
    pending=SecretBytes(b"pending join in clear"),
)


@pytest.fixture
def entropy() -> SeededEntropy:
    return SeededEntropy(3)


@pytest.fixture
def unlock_key(entropy: SeededEntropy) -> UnlockKey:
    return UnlockKey.generate(entropy)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seal"


def with_right_digest(file: bytes) -> bytes:
    content = file[:-DIGEST_SIZE]
    return content + hashlib.sha256(content).digest()


def flipped(file: bytes, position: int) -> bytes:
    return file[:position] + bytes([file[position] ^ 1]) + file[position + 1 :]


# --- the key's text ---------------------------------------------------------------------------


def test_the_text_of_a_key_parses_to_the_key(unlock_key: UnlockKey) -> None:
    text = unlock_key.text().reveal()
    assert text.startswith(b"SRUNLK-1-")
    assert [len(group) for group in text.split(b"-")[2:]] == [7] * 8
    assert UnlockKey.parse(SecretBytes(text)) == unlock_key


def test_case_white_space_and_grouping_do_not_matter(unlock_key: UnlockKey) -> None:
    text = unlock_key.text().reveal()
    ungrouped = b"SRUNLK-1-" + text.removeprefix(b"SRUNLK-1-").replace(b"-", b"")
    for variant in (text.lower(), b"  " + text + b"\r\n", ungrouped):
        assert UnlockKey.parse(SecretBytes(variant)) == unlock_key


def test_every_wrong_letter_is_told_as_a_typing_error(unlock_key: UnlockKey) -> None:
    text = unlock_key.text().reveal()
    start = len(b"SRUNLK-1-")
    for at in range(start, len(text)):
        if text[at : at + 1] == b"-":
            continue
        wrong = b"A" if text[at : at + 1] != b"A" else b"B"
        for typo in (text[:at] + wrong + text[at + 1 :], text[:at] + text[at + 1 :]):
            with pytest.raises(InvalidRequest, match="typing error"):
                UnlockKey.parse(SecretBytes(typo))


def test_two_swapped_letters_are_told_as_a_typing_error(unlock_key: UnlockKey) -> None:
    text = unlock_key.text().reveal()
    for at in range(len(b"SRUNLK-1-"), len(text) - 1):
        one, two = text[at : at + 1], text[at + 1 : at + 2]
        if one == two or b"-" in (one, two):
            continue
        with pytest.raises(InvalidRequest, match="typing error"):
            UnlockKey.parse(SecretBytes(text[:at] + two + one + text[at + 2 :]))


@pytest.mark.parametrize(
    "text", [b"", b"SRTKN-1-abc", b"SRUNLK-2-AAAA", b"\xff\xfe", b"SRUNLK1AAAA"]
)
def test_what_is_no_unlock_key_is_told_so(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not an unlock key"):
        UnlockKey.parse(SecretBytes(text))


@pytest.mark.parametrize("rest", [b"", b"-", b"A", b"0189", b"\xff" * 56, b"A" * 64, b"=" * 56])
def test_a_key_of_another_length_or_alphabet_is_told_as_a_typing_error(rest: bytes) -> None:
    with pytest.raises(InvalidRequest, match="typing error"):
        UnlockKey.parse(SecretBytes(b"SRUNLK-1-" + rest))


def test_a_refused_text_is_not_repeated(unlock_key: UnlockKey) -> None:
    text = unlock_key.text().reveal()[:-1]
    with pytest.raises(InvalidRequest) as caught:
        UnlockKey.parse(SecretBytes(text))
    assert text.decode()[9:] not in caught.value.message


def test_a_key_does_not_show_itself(unlock_key: UnlockKey) -> None:
    assert repr(unlock_key) == "UnlockKey(key=SecretBytes(<redacted>))"


def test_a_key_of_another_size_is_our_own_bug() -> None:
    with pytest.raises(InvariantViolation):
        UnlockKey(SecretBytes(b"short"))


def test_the_verifier_matches_its_key_alone(unlock_key: UnlockKey, entropy: SeededEntropy) -> None:
    verifier = unlock_verifier(unlock_key)
    assert matches_verifier(unlock_key, verifier)
    assert not matches_verifier(UnlockKey.generate(entropy), verifier)
    assert not matches_verifier(unlock_key, b"")
    assert verifier != unlock_key.key.reveal()


# --- the file ---------------------------------------------------------------------------------


def test_a_seal_file_opens_to_what_went_in(
    path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    seal_key = create_seal_file(path, unlock_key, CONTENTS, entropy)
    assert open_seal_file(path, unlock_key) == (CONTENTS, seal_key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.threat("T-24")
def test_a_seal_file_holds_nothing_in_clear(
    path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    seal_key = create_seal_file(path, unlock_key, CONTENTS, entropy)
    file = path.read_bytes()
    for field in fields(CONTENTS):
        value = getattr(CONTENTS, field.name)
        clear = value.reveal() if isinstance(value, SecretBytes) else value
        clear = clear.encode() if isinstance(clear, str) else clear
        assert clear not in file, field.name
    assert seal_key.key.reveal() not in file
    assert unlock_key.key.reveal() not in file


@pytest.mark.control("T-24", without="cluster/seal/unlock.py::open_seal_file")
def test_seal_file_is_an_open_book_without_the_unlock_key_in_it(
    path: Path,
    unlock_key: UnlockKey,
    entropy: SeededEntropy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sealed under a key that everybody has, whoever has the file has the root key."""
    create_seal_file(path, unlock_key, CONTENTS, entropy)
    thief = UnlockKey.generate(entropy)
    with pytest.raises(PermissionDenied):
        open_seal_file(path, thief)
    path.unlink()
    derive = aead.derive
    monkeypatch.setattr(
        aead, "derive", lambda _key, *how, **more: derive(SecretBytes(bytes(32)), *how, **more)
    )
    create_seal_file(path, unlock_key, CONTENTS, entropy)
    assert open_seal_file(path, thief)[0].root_key == CONTENTS.root_key


def test_a_seal_file_is_never_created_over_another(
    path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    create_seal_file(path, unlock_key, CONTENTS, entropy)
    with pytest.raises(AlreadyExists):
        create_seal_file(path, UnlockKey.generate(entropy), CONTENTS, entropy)
    assert open_seal_file(path, unlock_key)[0] == CONTENTS


def test_rewriting_needs_no_unlock_key_and_keeps_it(
    path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    seal_key = create_seal_file(path, unlock_key, CONTENTS, entropy)
    before = path.read_bytes()
    renewed = replace(CONTENTS, tls_key=SecretBytes(b"renewed key"))
    rewrite_seal_file(path, seal_key, renewed, entropy)
    after = path.read_bytes()
    assert open_seal_file(path, unlock_key) == (renewed, seal_key)
    assert after[SLOT] == before[SLOT]
    assert after[SLOT.stop :] != before[SLOT.stop :]


def test_a_key_that_was_opened_rewrites_as_the_created_one_does(
    path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    create_seal_file(path, unlock_key, CONTENTS, entropy)
    _, seal_key = open_seal_file(path, unlock_key)
    joined = replace(CONTENTS, pending=SecretBytes(b""))
    rewrite_seal_file(path, seal_key, joined, entropy)
    assert open_seal_file(path, unlock_key)[0] == joined


@pytest.mark.threat("T-24")
def test_a_wrong_key_is_told_from_a_damaged_file(
    path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    create_seal_file(path, unlock_key, CONTENTS, entropy)
    other = UnlockKey.generate(entropy)
    with pytest.raises(PermissionDenied, match="does not open"):
        open_seal_file(path, other)
    path.write_bytes(flipped(path.read_bytes(), 200))
    for key in (other, unlock_key):
        with pytest.raises(IntegrityError, match="damaged"):
            open_seal_file(path, key)


def test_no_changed_byte_goes_unnoticed(
    path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    create_seal_file(path, unlock_key, CONTENTS, entropy)
    file = path.read_bytes()
    for position in range(len(file)):
        path.write_bytes(flipped(file, position))
        with pytest.raises(IntegrityError):
            open_seal_file(path, unlock_key)


def test_no_byte_changed_under_a_forged_digest_goes_unnoticed(
    path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    create_seal_file(path, unlock_key, CONTENTS, entropy)
    file = path.read_bytes()
    for position in range(len(file) - DIGEST_SIZE):
        path.write_bytes(with_right_digest(flipped(file, position)))
        in_slot = SLOT.start <= position < SLOT.stop
        with pytest.raises(PermissionDenied if in_slot else IntegrityError):
            open_seal_file(path, unlock_key)


def test_a_cut_file_is_damaged(path: Path, unlock_key: UnlockKey, entropy: SeededEntropy) -> None:
    create_seal_file(path, unlock_key, CONTENTS, entropy)
    file = path.read_bytes()
    for size in [*range(0, len(file), 7), len(file) - 1]:
        path.write_bytes(file[:size])
        with pytest.raises(IntegrityError):
            open_seal_file(path, unlock_key)
        path.write_bytes(with_right_digest(file[:size]))
        with pytest.raises(IntegrityError):
            open_seal_file(path, unlock_key)


def test_the_body_of_another_file_does_not_open_under_this_slot(
    tmp_path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    create_seal_file(one, unlock_key, CONTENTS, entropy)
    create_seal_file(two, unlock_key, CONTENTS, entropy)
    mixed = one.read_bytes()[: SLOT.stop] + two.read_bytes()[SLOT.stop :]
    one.write_bytes(with_right_digest(mixed))
    with pytest.raises(IntegrityError):
        open_seal_file(one, unlock_key)


def test_a_later_format_is_refused_with_what_to_do(
    path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    create_seal_file(path, unlock_key, CONTENTS, entropy)
    file = path.read_bytes()
    path.write_bytes(with_right_digest(file[:6] + (2).to_bytes(2) + file[8:]))
    with pytest.raises(IntegrityError, match="run the version that wrote it"):
        open_seal_file(path, unlock_key)


def test_a_missing_or_huge_file_is_told(path: Path, unlock_key: UnlockKey) -> None:
    with pytest.raises(NotFound):
        open_seal_file(path, unlock_key)
    path.write_bytes(bytes(unlock.SIZE_LIMIT + 1))
    with pytest.raises(IntegrityError):
        open_seal_file(path, unlock_key)


def test_contents_that_could_not_be_read_again_are_not_written(
    path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    seal_key = create_seal_file(path, unlock_key, CONTENTS, entropy)
    huge = replace(CONTENTS, pending=SecretBytes(bytes(unlock.SIZE_LIMIT)))
    with pytest.raises(InvariantViolation):
        rewrite_seal_file(path, seal_key, huge, entropy)
    assert open_seal_file(path, unlock_key)[0] == CONTENTS


def test_contents_and_seal_key_do_not_show_themselves(
    path: Path, unlock_key: UnlockKey, entropy: SeededEntropy
) -> None:
    seal_key = create_seal_file(path, unlock_key, CONTENTS, entropy)
    shown = repr(CONTENTS) + repr(seal_key) + repr(unlock._body(CONTENTS))
    assert "in clear" not in shown
    assert "RRRR" not in shown
    assert repr(seal_key.key.reveal())[2:-1] not in shown
