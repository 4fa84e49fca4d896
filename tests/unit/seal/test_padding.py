"""Padding at its edges; the general claims are in tests/property/test_padding.py."""

import pytest

from cluster.protocol.errors import OpenFailed
from cluster.seal import padding


@pytest.mark.parametrize(
    ("size", "padded"),
    [(0, 256), (255, 256), (256, 272), (511, 512), (512, 544), (999, 1024), (511_999, 516_096)],
)
def test_sizes_follow_the_minimum_and_then_padme(size: int, padded: int) -> None:
    assert padding.padded_size(size) == padded
    assert len(padding.pad(bytes(size))) == padded


@pytest.mark.parametrize("content", [b"", b"\0", b"\x80", b"\x80\0\0", b"a\x80", b"\0" * 255])
def test_content_that_looks_like_padding_survives(content: bytes) -> None:
    assert padding.unpad(padding.pad(content)) == content


@pytest.mark.parametrize(
    "padded",
    [
        b"",
        bytes(256),
        b"a" * 256,
        b"\x80",
        b"\x80" + bytes(254),
        b"\x80" + bytes(256),
        b"a" * 10 + b"\x80" + bytes(262),
    ],
    ids=["empty", "no mark", "no padding", "bare mark", "short", "long", "next class"],
)
def test_what_pad_does_not_make_is_refused(padded: bytes) -> None:
    with pytest.raises(OpenFailed):
        padding.unpad(padded)
