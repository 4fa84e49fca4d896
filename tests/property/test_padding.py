"""Padding, for all contents."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.protocol.errors import OpenFailed
from cluster.seal import padding

SIZES = st.integers(min_value=0, max_value=2_000_000)


@given(st.binary(max_size=4_096))
def test_padded_content_comes_back(content: bytes) -> None:
    assert padding.unpad(padding.pad(content)) == content


@given(st.binary(max_size=600), st.binary(max_size=600))
def test_different_contents_stay_different(one: bytes, two: bytes) -> None:
    assert (padding.pad(one) == padding.pad(two)) == (one == two)


@given(st.binary(max_size=600))
def test_only_what_pad_makes_is_unpadded(candidate: bytes) -> None:
    try:
        content = padding.unpad(candidate)
    except OpenFailed:
        return
    assert padding.pad(content) == candidate


@given(SIZES)
def test_a_size_grows_by_little(size: int) -> None:
    padded = padding.padded_size(size)
    assert padded > size
    assert padded <= max(padding.MINIMUM_SIZE, (size + 1) * 1.12)


@given(SIZES, SIZES)
def test_a_longer_content_is_never_padded_shorter(one: int, two: int) -> None:
    shorter, longer = sorted((one, two))
    assert padding.padded_size(shorter) <= padding.padded_size(longer)


@given(SIZES)
def test_few_size_classes_exist(size: int) -> None:
    """Padmé leaves as many significant bits as the length of the exponent: log log leakage."""
    padded = padding.padded_size(size)
    significant = padded >> ((padded & -padded).bit_length() - 1)
    assert significant.bit_length() <= (padded.bit_length() - 1).bit_length() + 1
