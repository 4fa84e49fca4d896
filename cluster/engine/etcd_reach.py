"""How far into a keyspace one request of a long listing reaches.

etcd counts every key of the range that is asked for, at each request, whatever its limit: asked
page by page up to the end, 150,000 records took it two minutes of processor time. So a request
ends where about as many keys are expected as are wanted, by the distances between those before.
That is a guess about speed alone: whatever it is, each key comes once, and in order.
"""

from typing import Final

MANY: Final = 10_000
"""Keys that are counted in no time; a shorter listing is asked for up to its end."""
_WIDTH: Final = 8
"""Bytes behind the prefix by which distances are taken."""
_SPACE: Final = 1 << 8 * _WIDTH
_FASTER: Final = 4
"""How many times farther the next request reaches than one that found nothing."""


class Reach:
    """The distances between the keys of each prefix, as far as they are known."""

    def __init__(self) -> None:
        self._gaps: dict[bytes, int] = {}

    def end(self, prefix: bytes, start: bytes, wanted: int) -> bytes | None:
        """Return the key before which about `wanted` keys lie from `start` on; None: ask for all
        that is left."""
        gap = self._gaps.get(prefix)
        if gap is None or not start.startswith(prefix):
            return None
        at = _position(prefix, start) + gap * wanted
        return None if at >= _SPACE else prefix + at.to_bytes(_WIDTH)

    def learn(
        self,
        prefix: bytes,
        start: bytes,
        end: bytes | None,
        last: bytes | None,
        found: int,
        count: int,
    ) -> None:
        """Take in that a request from `start` found `found` keys.

        `end`: what `end` said for it. `last`: the last key, if there are more before `end`.
        `count`: the keys that the engine counted.
        """
        if end is None and count <= MANY:
            self._gaps.pop(prefix, None)
            return
        if not found:
            self._gaps[prefix] = self._gaps.get(prefix, 1) * _FASTER
            return
        until = _SPACE if end is None else _position(prefix, end)
        reached = until if last is None else _position(prefix, last)
        self._gaps[prefix] = max(1, (reached - _position(prefix, start)) // found)


def _position(prefix: bytes, key: bytes) -> int:
    """Return where a key lies behind its prefix."""
    return int.from_bytes(key[len(prefix) : len(prefix) + _WIDTH].ljust(_WIDTH, b"\0"))
