"""What is taken out of a service's output, and what is known to pass."""

from pathlib import Path

import pytest

from agent.redaction import REDACTED, patterns_of, redacted, values_in

PEM = b"-----BEGIN KEY-----\nTUlJRXZnSUJBREFO\nQmdrcWhraUc5dzBC\n-----END KEY-----\n"


def shown(text: bytes, *values: bytes) -> bytes:
    return redacted(text, patterns_of(values))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"login with hunter22", b"login with " + REDACTED),
        (b"hunter22hunter22", REDACTED * 2),
        (b'{"password":"hunter22"}', b'{"password":"' + REDACTED + b'"}'),
        (b"Hunter22", b"Hunter22"),
        (b"nothing of it", b"nothing of it"),
        (b"", b""),
    ],
)
def test_a_value_is_taken_out_wherever_it_stands(text: bytes, expected: bytes) -> None:
    assert shown(text, b"hunter22") == expected


def test_the_end_of_line_in_a_file_is_not_part_of_what_is_printed() -> None:
    assert shown(b"db hunter22 ok", b"hunter22\n") == b"db " + REDACTED + b" ok"


def test_each_line_of_a_value_is_taken_out_and_its_frame_stays() -> None:
    assert shown(b"TUlJRXZnSUJBREFO", PEM) == REDACTED
    assert shown(b"  QmdrcWhraUc5dzBC", PEM) == b"  " + REDACTED
    assert shown(b"-----BEGIN KEY-----", PEM) == b"-----BEGIN KEY-----"


def test_a_value_within_another_leaves_no_rest() -> None:
    assert shown(b"is pass-word-2 set", b"pass-word", b"pass-word-2") == (
        b"is " + REDACTED + b" set"
    )


def test_values_too_short_to_be_secret_are_left() -> None:
    assert shown(b"a yes is a yes", b"yes", b"\n", b"") == b"a yes is a yes"


def test_bytes_that_are_no_text_are_found_too() -> None:
    assert shown(b"\xff\x00\xfe\x01 x", b"\xff\x00\xfe\x01") == REDACTED + b" x"


def test_files_of_every_set_that_still_lies_there_count(tmp_path: Path) -> None:
    for number, value in ((1, b"old value"), (2, b"new value")):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}/db").write_bytes(value)
        (tmp_path / f"..{number}/..manifest").write_bytes(b"names versions")
    (tmp_path / "..data").symlink_to("..2")
    (tmp_path / "db").symlink_to("..data/db")
    (tmp_path / "..2/away").symlink_to("/etc/hostname")
    assert sorted(values_in(tmp_path)) == [b"new value", b"old value"]
    assert values_in(tmp_path / "gone") == []
