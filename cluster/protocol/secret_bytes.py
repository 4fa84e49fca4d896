"""`SecretBytes`: bytes that do not show themselves.

Every way a value leaks by accident (repr, formatting, logging, pickling, copying, JSON, hashing) is
closed; `reveal()` is the one way out, and tests/architecture lists every place that calls it.
"""

from typing import NoReturn, SupportsIndex


class SecretBytes:
    """Holds a secret in a buffer of its own that can be wiped.

    CPython may keep copies that we cannot reach; wiping narrows the window, it does not close it.
    """

    __slots__ = ("_buffer",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._buffer = bytearray(value)

    def reveal(self) -> bytes:
        """Return a copy of the value: the only way out."""
        return bytes(self._buffer)

    def wipe(self) -> None:
        """Overwrite our copy with zeros; the length stays."""
        self._buffer[:] = bytes(len(self._buffer))

    def __len__(self) -> int:
        return len(self._buffer)

    def __bool__(self) -> bool:
        return bool(self._buffer)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretBytes):
            return NotImplemented
        # Not at the top: every command makes secrets, and none compares them.
        import hmac  # noqa: PLC0415

        return hmac.compare_digest(self._buffer, other._buffer)

    __hash__ = None  # type: ignore[assignment]  # a hash would be an oracle for the value

    def __repr__(self) -> str:
        return "SecretBytes(<redacted>)"

    __str__ = __repr__

    def __format__(self, format_spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a secret cannot be pickled or copied")

    def __copy__(self) -> NoReturn:
        raise TypeError("a secret cannot be copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError("a secret cannot be copied")
