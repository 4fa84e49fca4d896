"""The values that a change of mounts draws on: those that came sealed, and those that rest in
mounts.

Owns the short life of an opened value: from its envelope into `agent.mounts` and wiped. A sealed
value is opened only for the service whose files are written next. Source: ADR 0012.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from agent.assignments import version_key
from cluster.pki.node_envelope import OpenValue, SealedValue
from cluster.protocol.errors import MountRefused, OpenFailed
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import FileSpec, VersionKey


class ValuesAtHand:
    """What can be written now. `resting`: read from mounts, wiped by whoever read it."""

    def __init__(
        self,
        sealed: Mapping[VersionKey, SealedValue],
        open_value: OpenValue,
        resting: Mapping[VersionKey, SecretBytes],
    ) -> None:
        self._sealed = sealed
        self._open_value = open_value
        self._resting = resting
        self._unopened: set[VersionKey] = set()

    @property
    def unopened(self) -> tuple[VersionKey, ...]:
        """Return the versions that came in an envelope that did not open."""
        return tuple(self._unopened)

    @contextmanager
    def of(self, files: Iterable[FileSpec]) -> Iterator[Mapping[VersionKey, SecretBytes]]:
        """Give the values of `files`, opened until the end of the block.

        Raises MountRefused, naming the secret, if one has not come or does not open.
        """
        values: dict[VersionKey, SecretBytes] = {}
        opened: list[SecretBytes] = []
        try:
            for file in files:
                key = version_key(file)
                if key in values:
                    continue
                if key in self._resting:
                    values[key] = self._resting[key]
                    continue
                values[key] = self._opened(key, file.name)
                opened.append(values[key])
            yield values
        finally:
            for value in opened:
                value.wipe()

    def _opened(self, key: VersionKey, name: str) -> SecretBytes:
        if key not in self._sealed:
            raise MountRefused(f"the value of {name} has not arrived yet; it is asked for again")
        try:
            return self._open_value(self._sealed[key])
        except OpenFailed:
            self._unopened.add(key)
            raise MountRefused(
                f"the value of {name} was not sealed for this node; it is asked for again"
            ) from None
