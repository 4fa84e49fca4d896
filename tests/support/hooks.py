"""A third party behind a hook, in memory: which credentials it accepts, and what it was told."""

import asyncio
from dataclasses import dataclass, field

from cluster.hook.contract import HookAction, HookCall
from cluster.protocol.errors import HookFailed


@dataclass(frozen=True)
class Told:
    """One call, without its value."""

    operation: str
    action: HookAction
    version: int
    previous: int


@dataclass
class CredentialIssuer:
    """Stands at the port for hooks."""

    accepted: set[bytes] = field(default_factory=set)
    told: list[Told] = field(default_factory=list)
    refuses: set[HookAction] = field(default_factory=set)
    """Actions that fail from now on."""
    lost: set[HookAction] = field(default_factory=set)
    """Actions that are carried out, and whose answer is lost."""
    unknown: set[str] = field(default_factory=set)
    hangs: asyncio.Event | None = None
    """No call goes on until it is set."""

    def check(self, name: str) -> None:
        """Refuse the names in `unknown`."""
        if name in self.unknown:
            raise HookFailed(f"there is no hook {name!r} in this manager's hook directory")

    def listed(self) -> list[tuple[str, str, str]]:
        """Return one hook."""
        return [("party", "program", "")]

    async def call(self, name: str, call: HookCall) -> None:
        """Carry a call out, as often as it comes."""
        self.check(name)
        self.told.append(Told(call.operation, call.action, call.new.version, call.previous.version))
        if self.hangs is not None:
            await self.hangs.wait()
        if call.action in self.refuses:
            raise HookFailed("the hook ended with exit status 1")
        self._carry_out(call)
        if call.action in self.lost:
            raise HookFailed("the hook did not end within 30 s; it was killed")

    def actions(self) -> list[HookAction]:
        """Return what it was told to do, in order."""
        return [told.action for told in self.told]

    def _carry_out(self, call: HookCall) -> None:
        new = call.new.value.reveal() if call.new.value is not None else b""
        old = call.previous.value.reveal() if call.previous.value is not None else b""
        match call.action:
            case HookAction.PREPARE:
                self.accepted.add(new)
            case HookAction.RETIRE:
                self.accepted.discard(old)
            case HookAction.ROLLBACK:
                self.accepted.discard(new)
            case HookAction.CONFIRM:
                assert new in self.accepted
