"""Own writes: what this manager sealed a moment ago, until the watch brings it back.

Bytes that are equal to what was sealed here, under the key that they were sealed for, open to what
went in: envelope, key, nonce and bound data are all the same. So they are compared instead of
opened, which proves as much for a tenth of the work. Anything else under that key is opened as
ever. Holds nothing longer than its writer waits. Pure.
"""

from cluster.store.batch import Pending


class OwnWrites:
    """The writes under way, by the keys that they write."""

    def __init__(self) -> None:
        self._sent: dict[bytes, tuple[Pending, int]] = {}

    def expect(self, write: Pending) -> None:
        """Remember a write; of two that write one key, the later."""
        for place, put in enumerate(write.puts):
            self._sent[put.key] = write, place

    def forget(self, write: Pending) -> None:
        """Forget a write, whatever became of it."""
        for put in write.puts:
            sent = self._sent.get(put.key)
            if sent is not None and sent[0] is write:
                del self._sent[put.key]

    def plaintext(self, key: bytes, sealed: bytes) -> bytes | None:
        """Return the plaintext of what was sealed here, or None for what must be opened."""
        sent = self._sent.get(key)
        if sent is None:
            return None
        write, place = sent
        return write.puts[place].plaintext if write.sealed(place) == sealed else None
