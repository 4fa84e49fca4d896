"""Cutting output into lines, and keeping the last ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.log_ring import (
    MAX_LINE,
    MAX_PENDING,
    RING_BYTES,
    RING_LINES,
    TOO_LONG,
    LineCutter,
    Ring,
)


def cut(*pieces: bytes) -> list[bytes]:
    cutter = LineCutter()
    lines = [line for piece in pieces for line in cutter.feed(piece)]
    return [*lines, *cutter.rest()]


@given(st.lists(st.binary(max_size=30)), st.data())
def test_lines_do_not_depend_on_how_the_output_comes(
    lines: list[bytes], data: st.DataObject
) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    whole = b"".join(line + b"\n" for line in lines)
    at = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    pieces = [whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True)]
    assert cut(*pieces) == lines


def test_a_last_line_without_an_end_counts() -> None:
    assert cut(b"a\nb") == [b"a", b"b"]
    assert cut(b"") == []


@pytest.mark.threat("T-54")
@pytest.mark.parametrize("times", [1, 3])
def test_nothing_is_kept_of_a_line_too_long_to_look_through(times: int) -> None:
    """A value within it, whole or repeated, would be cut and then not be found."""
    assert cut(*[b"x" * MAX_PENDING] * times, b"y\nnext\n") == [TOO_LONG, b"next"]
    assert cut(b"x" * MAX_PENDING + b"y" * times + b"\nnext") == [TOO_LONG, b"next"]
    assert cut(*[b"x" * MAX_PENDING] * times, b"unended") == [TOO_LONG]
    assert cut(b"x" * MAX_PENDING, b"\nnext") == [b"x" * MAX_PENDING, b"next"]


def ring(*lines: bytes, at_s: float = 1.0) -> Ring:
    made = Ring()
    for line in lines:
        made.add("stdout", line, at_s, 7.0)
    return made


def test_long_lines_are_cut_and_say_so() -> None:
    (line,) = ring(b"x" * (MAX_LINE + 1)).after(0.0)
    assert line.text == "x" * MAX_LINE + " [cut]"


def test_what_is_no_text_is_shown_as_escapes() -> None:
    assert ring(b"\xffa\xc3\xa9").after(0.0)[0].text == "\\xffaé"


@pytest.mark.parametrize("size", [1, 1_000, MAX_LINE])
def test_the_oldest_lines_make_room(size: int) -> None:
    made = Ring()
    for number in range(RING_LINES + 100):
        made.add("stdout", f"{number:0{size}}".encode(), float(number), 0.0)
    kept = made.after(-1.0)
    assert len(kept) <= RING_LINES
    assert sum(len(line.text) for line in kept) <= RING_BYTES
    assert kept[-1].text.endswith(str(RING_LINES + 99)[-size:])
    assert [line.at_s for line in kept] == sorted(line.at_s for line in kept)
    room = RING_LINES if size * RING_LINES <= RING_BYTES else RING_BYTES // size
    assert len(kept) >= room - 1


def test_lines_of_one_moment_can_be_told_apart() -> None:
    """Whoever has all up to a line asks for what came behind it and misses none."""
    made = ring(b"a", b"b", b"c")
    first, second, third = made.after(0.0)
    assert first.at_s < second.at_s < third.at_s
    assert [line.text for line in made.after(second.at_s)] == ["c"]
    made.add("stderr", b"back in time", 0.5, 7.0)
    assert [line.text for line in made.after(third.at_s)] == ["back in time"]
