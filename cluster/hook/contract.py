"""What a hook is told, and what it may answer.

Owns the message of one call. It holds values: it goes to the hook's standard input or in a request
body, never into an argument, an environment, a log or an error. Reference:
docs/how-to/write-a-hook.md.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import msgspec

from cluster.protocol.ids import VersionNumber
from cluster.protocol.secret_bytes import SecretBytes


class HookAction(StrEnum):
    """What a hook is asked to do at the third party."""

    PREPARE = "prepare"
    """Accept the new credential, beside the old one where that can be."""
    CONFIRM = "confirm"
    """Every node has it: check that it works."""
    RETIRE = "retire"
    """Nobody uses the old one any more: stop accepting it."""
    ROLLBACK = "rollback"
    """Nobody uses the new one any more: stop accepting it, and see that the old one works."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A version, with its value where that is still kept."""

    version: VersionNumber
    value: SecretBytes | None


@dataclass(frozen=True, slots=True)
class HookCall:
    """One call; a call that is made again after a failure is equal in every field."""

    operation: str
    """Id of the rotation: a hook that has carried out (operation, action) answers yes again."""
    action: HookAction
    secret: str
    new: Credential
    previous: Credential

    @property
    def idempotency_key(self) -> str:
        """Names the call: the same in every attempt."""
        return f"{self.operation}/{self.action.value}"

    def encode(self) -> bytes:
        """Return the call as JSON, with the values in base64."""
        return msgspec.json.encode(
            {
                "operation": self.operation,
                "action": self.action.value,
                "secret": self.secret,
                "version": self.new.version,
                "value": _text(self.new.value),
                "previous": {
                    "version": self.previous.version,
                    "value": _text(self.previous.value),
                },
            }
        )


class Hooks(Protocol):
    """The hooks that this manager is configured with."""

    def check(self, name: str) -> None:
        """Raise HookFailed, saying why, unless there is a usable hook of this name."""
        ...

    def listed(self) -> Sequence[tuple[str, str, str]]:
        """Return name, kind and what is wrong (or "") of each."""
        ...

    async def call(self, name: str, call: HookCall) -> None:
        """Call a hook. Raises HookFailed, with a text that holds nothing the hook said."""
        ...


def _text(value: SecretBytes | None) -> str | None:
    return None if value is None else base64.b64encode(value.reveal()).decode()
