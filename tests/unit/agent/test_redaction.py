"""What is taken out of a service's output, and what is known to pass."""

from pathlib import Path

import pytest

from agent import redaction
from agent.redaction import MOST_LINES, REDACTED, WITHHELD, Net, patterns_of, redacted, values_in

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


def test_so_many_lines_of_a_value_are_looked_for_and_none_twice() -> None:
    again = b"the same again\n" * 500
    lines = [f"line number {number:03}".encode() for number in range(MOST_LINES)]
    value = again + b"\n".join(lines)
    assert shown(lines[-2], value) == REDACTED
    assert shown(lines[-1], value) == lines[-1]
    assert len(patterns_of([value])) == 1 + MOST_LINES


def test_text_shorter_than_every_value_stays() -> None:
    assert shown(b"hunter2", b"hunter22", b"hunter222") == b"hunter2"


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


def publish(mount: Path, number: int, **values: bytes) -> None:
    """Put a set of files in place, as the agent does."""
    (mount / f"..{number}").mkdir()
    for name, value in values.items():
        (mount / f"..{number}/{name}").write_bytes(value)
    (mount / "..data.new").symlink_to(f"..{number}")
    (mount / "..data.new").rename(mount / "..data")


def drop(mount: Path, number: int) -> None:
    """Take a superseded set away."""
    for path in (mount / f"..{number}").iterdir():
        path.unlink()
    (mount / f"..{number}").rmdir()


@pytest.mark.threat("T-54")
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_set_that_vanishes_meanwhile_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: int
) -> None:
    for number in (1, 2):
        publish(tmp_path, number, db=f"value {number}".encode())
    listed = redaction._generations(tmp_path)
    listed.insert(gone, str(tmp_path / "..9"))
    monkeypatch.setattr(redaction, "_generations", lambda _mount: listed)
    assert sorted(values_in(tmp_path)) == [b"value 1", b"value 2"]


def test_each_published_set_is_looked_for(tmp_path: Path) -> None:
    net = Net(tmp_path)
    publish(tmp_path, 1, db=b"value 1")
    assert redacted(b"value 1, value 2", net.patterns()) == REDACTED + b", value 2"
    publish(tmp_path, 2, db=b"value 2")
    assert redacted(b"value 1, value 2", net.patterns()) == REDACTED + b", " + REDACTED
    drop(tmp_path, 1)
    publish(tmp_path, 3, db=b"value 3")
    assert redacted(b"value 1, value 3", net.patterns()) == b"value 1, " + REDACTED


def test_a_set_of_the_same_number_is_another_one(tmp_path: Path) -> None:
    net = Net(tmp_path)
    publish(tmp_path, 1, db=b"value 1")
    net.patterns()
    (tmp_path / "keeps-the-inode").hardlink_to(tmp_path / "..data")
    drop(tmp_path, 1)
    publish(tmp_path, 1, db=b"value 2")
    assert redacted(b"value 2", net.patterns()) == REDACTED


def test_files_are_read_once_a_set(tmp_path: Path) -> None:
    net = Net(tmp_path)
    publish(tmp_path, 1, db=b"value 1")
    assert net.patterns() is net.patterns()


@pytest.mark.threat("T-54")
def test_without_its_files_nothing_is_kept_of_what_a_program_prints(tmp_path: Path) -> None:
    """Whoever lost them may still know what was in them."""
    net = Net(tmp_path)
    publish(tmp_path, 1, db=b"value 1", tls=b"key of it")
    assert redacted(b"value 1", net.patterns()) == REDACTED
    (tmp_path / "..data").unlink()
    assert redacted(b"value 1", net.patterns()) == WITHHELD
    drop(tmp_path, 1)
    publish(tmp_path, 2, tls=b"key of it")
    assert redacted(b"value 1", net.patterns()) == WITHHELD
    publish(tmp_path, 3, tls=b"key of it", db=b"value 1")
    assert redacted(b"value 1", net.patterns()) == REDACTED


def test_a_service_without_files_keeps_what_it_prints(tmp_path: Path) -> None:
    net = Net(tmp_path)
    publish(tmp_path, 1)
    assert redacted(b"up", net.patterns()) == b"up"
    assert redacted(b"up", Net(tmp_path / "gone").patterns()) == WITHHELD
