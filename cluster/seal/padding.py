"""Padding: a ciphertext's size tells its size class and nothing finer.

A 0x80 byte ends the content and zeros follow (ISO/IEC 7816-4), up to 256 bytes and beyond that to
the next Padmé size, which grows a plaintext by 12 % at most. Padding is removed only after
authentication, so it offers no oracle. Source: "Reducing Metadata Leakage from Encrypted Files and
Communication with PURBs", section 4.
"""

from cluster.protocol.errors import OpenFailed

MINIMUM_SIZE = 256
_END = b"\x80"


def padded_size(size: int) -> int:
    """Return the size that a content of `size` bytes has once padded, the end mark included."""
    marked = size + len(_END)
    if marked <= MINIMUM_SIZE:
        return MINIMUM_SIZE
    exponent = marked.bit_length() - 1
    free_bits = exponent - exponent.bit_length()
    mask = (1 << free_bits) - 1
    return (marked + mask) & ~mask


def pad(content: bytes) -> bytes:
    """Return the content, its end mark and zeros."""
    return (content + _END).ljust(padded_size(len(content)), b"\0")


def unpad(padded: bytes) -> bytes:
    """Return the content, or raise OpenFailed for anything that `pad` does not make."""
    marked = padded.rstrip(b"\0")
    content = marked.removesuffix(_END)
    if len(content) == len(marked) or padded_size(len(content)) != len(padded):
        raise OpenFailed
    return content
