"""Opens values from the store and puts them into messages for one node.

Owns the moment in which a value is in clear between the store's seal and the node's envelope, and
the size of a message. What may be sent is decided before; nothing here awaits, so it still holds.
Source: ADR 0012.
"""

from collections.abc import Callable, Iterable, Iterator

from cluster.pki.node_envelope import Recipient
from cluster.protocol import wire
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import VersionKey
from cluster.system import Entropy

OpenFromStore = Callable[[VersionKey], SecretBytes]
_Opened = list[tuple[VersionKey, SecretBytes]]


def sealed_values(
    keys: Iterable[VersionKey],
    open_value: OpenFromStore,
    recipient: Recipient,
    entropy: Entropy,
) -> list[wire.Values]:
    """Return messages that bring the versions `keys` names, each below the size of a message."""
    messages = []
    for opened in _portions(keys, open_value):
        messages.append(recipient.seal(opened, entropy))
        for _, value in opened:
            value.wipe()
    return messages


def _portions(keys: Iterable[VersionKey], open_value: OpenFromStore) -> Iterator[_Opened]:
    """Yield opened values, no more at a time than one message carries."""
    portion: _Opened = []
    size = 0
    for key in keys:
        value = open_value(key)
        if portion and size + len(value) > wire.VALUES_PER_MESSAGE_BYTES:
            yield portion
            portion, size = [], 0
        portion.append((key, value))
        size += len(value)
    if portion:
        yield portion
