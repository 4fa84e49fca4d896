"""The keyring cell: which keyring is in force, and at which revision it was stored.

The wrapped keyring lies under one fixed key outside every kind. Each transaction of the batcher
compares that key, so nothing is ever committed under a keyring that was replaced: an epoch can be
dropped once no record of it is left. Source: ADR 0004.
"""

import asyncio
from typing import Final

from cluster.engine.seam import Absent, Compare, Entry, Unchanged
from cluster.protocol.errors import Locked, StoreRolledBack, Unavailable
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.keyring import Keyring
from cluster.system import Entropy

KEYRING_KEY: Final = b"strongroom/keyring"
"""The one key that is not blinded. Prefixes of kinds and streams are HMACs and do not meet it."""


class KeyringCell:
    """Holds the keyring in force; `ingest` writes it."""

    def __init__(self, keyring: Keyring, root_key: SecretBytes | None) -> None:
        self._keyring = keyring
        self._root_key = root_key
        self._mod_revision = 0
        self._changed = asyncio.Event()

    @property
    def keyring(self) -> Keyring:
        """The keyring in force."""
        return self._keyring

    @property
    def stored(self) -> bool:
        """Whether the keyring in force was read from the store."""
        return self._mod_revision != 0

    @property
    def compare(self) -> Compare:
        """The compare that fails once another keyring was stored."""
        if self._mod_revision == 0:
            return Absent(KEYRING_KEY)
        return Unchanged(KEYRING_KEY, self._mod_revision)

    def take(self, entry: Entry) -> None:
        """Put a stored keyring in force.

        Raises OpenFailed, StoreRolledBack for an older one than the present, Locked if there is no
        root key to open it.
        """
        if entry.mod_revision == self._mod_revision:
            return
        if self._root_key is not None:
            keyring = Keyring.unwrap(self._root_key, entry.value)
            if keyring.current < self._keyring.current:
                raise StoreRolledBack("the stored keyring is older than the one in use")
            self._keyring = keyring
        elif self._mod_revision != 0:
            raise Locked("the keyring was replaced; unlock this manager again")
        self._mod_revision = entry.mod_revision
        self._changed.set()
        self._changed = asyncio.Event()

    def wrap(self, keyring: Keyring, entropy: Entropy) -> bytes:
        """Return a keyring wrapped for storing; raise Locked without the root key."""
        if self._root_key is None:
            raise Locked
        return keyring.wrap(self._root_key, entropy)

    async def wait_changed(self, compare: Compare, timeout_s: float) -> None:
        """Return once the keyring is not the one of `compare`; raise Unavailable after a time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.compare == compare:
                    await self._changed.wait()
        except TimeoutError:
            raise Unavailable("this manager has not learnt the new keyring yet; retry") from None
