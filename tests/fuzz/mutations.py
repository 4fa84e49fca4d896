"""Hypothesis strategies: noise, and valid input that was changed in a few places."""

from hypothesis import strategies as st

from tests.fuzz.target import CANARY, Target

_EDGES = (
    CANARY, b"\x00", b"\xff", b"\xff\xfe", b"\x7f", b"\n", b"\r\n", b" ", b"..", b"/", b"%2e", b'"',
    b"'", b"\\", b"[", b"{", b"=", b"-", b"-1", b"0", b"9" * 30, b"1e999", b"NaN",
    "\N{LATIN SMALL LETTER DOTLESS I}".encode(), "\N{KELVIN SIGN}".encode(), b"\xed\xa0\x80",
    b"\x91" * 200, b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x30\x80", b"\x02\x01\x01",
    b"\x06\x03\x2a\x03\x04",
)  # fmt: skip


@st.composite
def changed(draw: st.DrawFn, target: Target) -> bytes:
    """Return a seed of the target after one to four changes, the canary among them."""
    data = draw(st.sampled_from(target.seeds))
    for _ in range(draw(st.integers(1, 4))):
        data = _change(draw, target, data)
    return data


def _change(draw: st.DrawFn, target: Target, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data)))
    size = draw(st.integers(0, 12))
    match draw(st.sampled_from(("put", "put", "insert", "remove", "cut", "double", "flip"))):
        case "put":
            piece = draw(st.sampled_from((*_EDGES, *target.words)))
            return data[:at] + piece + data[at + len(piece) :]
        case "insert":
            piece = draw(st.sampled_from((*_EDGES, *target.words)))
            return data[:at] + piece + data[at:]
        case "remove":
            return data[:at] + data[at + size :]
        case "cut":
            return data[:at]
        case "double":
            return data[:at] + data[at : at + size] * 2 + data[at + size :]
        case _:
            return data[:at] + bytes((draw(st.integers(0, 255)),)) + data[at + 1 :]


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Return everything that a target is tried with."""
    noise = st.binary(max_size=300)
    text = st.text(max_size=120).map(lambda letters: letters.encode("utf-8", "surrogatepass"))
    return st.one_of(changed(target), changed(target), changed(target), noise, text)
