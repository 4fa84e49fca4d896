"""Carrying out one move of a rotation: the writes, and the calls of hooks between them.

Every write carries the campaign's guard. A hook cannot be fenced, so each call is on record before
it is made, and whoever takes the duty over makes it again under the same operation id. What follows
what is decided in `rotation_steps`. Source: DESIGN 6.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import msgspec
import structlog

from cluster.control.generators import recipe
from cluster.control.new_primary import new_primary
from cluster.control.policy import Action, Principal, Resource, authorize
from cluster.control.retirement import made_room, value_removals
from cluster.control.rollout_policy import AT_ONCE, UNCHANGED
from cluster.control.rotation_records import candidate_removal, rotations_of
from cluster.control.rotation_steps import (
    Become,
    Call,
    Generate,
    Move,
    Push,
    Revert,
    Wait,
    attempted,
    given_up,
    pushed,
    refused,
    succeeded,
)
from cluster.control.versions import made_primary
from cluster.hook.contract import Credential, HookAction, HookCall, Hooks
from cluster.protocol.errors import Conflict, HookFailed, StaleVersion, VersionNotFound
from cluster.protocol.ids import ID_SIZE, RolloutId, VersionNumber, format_id
from cluster.store.records import (
    Kind,
    RotationRecord,
    RotationStep,
    SecretRecord,
    SecretValueRecord,
    value_id,
)
from cluster.store.sealed_store import SealedStore
from cluster.store.steps import Create, Remove, Replace, Step, Write
from cluster.store.view import Stored, View
from cluster.system import Clock, Entropy

if TYPE_CHECKING:
    from cluster.protocol.secret_bytes import SecretBytes

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RotationMoves:
    """Makes moves for the holder of the duty."""

    store: SealedStore
    clock: Clock
    entropy: Entropy
    principal: Principal
    """This manager."""
    guarded: Callable[[Write], Write]
    """Returns a write with the campaign's guard."""
    hooks: Hooks

    async def carry_out(self, stored: Stored[RotationRecord], move: Move) -> None:
        """Make one move. Raises what the store raises when somebody else wrote meanwhile."""
        match move:
            case Generate():
                await self._generate(stored)
            case Push():
                await self._push(stored)
            case Revert():
                await self._revert(stored)
            case Call(action):
                await self._call(stored, action)
            case Become():
                await self.become(stored, move)
            case Wait():
                return
            case _:
                assert_never(move)

    async def _generate(self, stored: Stored[RotationRecord]) -> None:
        """Make the value and store it where nothing refers to it; its number is used up."""
        rotation = stored.record
        secret = self._secret(rotation)
        made = recipe(rotation.generator, rotation.length)
        value = await asyncio.to_thread(made.make, self.entropy)
        number = VersionNumber(secret.record.next_number)
        record = SecretValueRecord(id=value_id(rotation.secret_id, number), value=value.reveal())
        after = msgspec.structs.replace(
            rotation,
            version=number,
            size=len(value),
            step=RotationStep.PREPARE if rotation.hook else RotationStep.PUSH,
        )
        counted = msgspec.structs.replace(secret.record, next_number=number + 1)
        value.wipe()
        steps: list[Step] = [Replace(secret, counted), Create(record), Replace(stored, after)]
        await self.commit(steps, after, f"version {number} made")

    async def _push(self, stored: Stored[RotationRecord]) -> None:
        """Make the new version primary and start its rollout."""
        now_s = self._now_s()
        secret, view = self._secret(stored.record), self.store.view
        try:
            room = made_room(view, secret.record, now_s)
        except Conflict as full:
            await self.become(stored, given_up(stored.record, full.message, now_s))
            return
        grown = pushed(room.record, stored.record, now_s)
        request_id = stored.record.request_id
        after = made_primary(grown, stored.record.version or 0, now_s, request_id=request_id)
        gone = value_removals(view, stored.record.secret_id, room.destroyed)
        await self._change_primary(stored, secret, after, RotationStep.CONFIRM, gone)

    async def _revert(self, stored: Stored[RotationRecord]) -> None:
        """Make the version before primary again; the new one is retired without an overlap."""
        secret = self._secret(stored.record)
        after = made_primary(
            secret.record,
            stored.record.previous,
            self._now_s(),
            overlap_s=0.0,
            taken_back=True,
            request_id=stored.record.request_id,
        )
        await self._change_primary(stored, secret, after, RotationStep.ROLLBACK)

    async def _change_primary(
        self,
        stored: Stored[RotationRecord],
        secret: Stored[SecretRecord],
        after: SecretRecord,
        then: RotationStep,
        more: Sequence[Step] = (),
    ) -> None:
        # A way back does not wait.
        how = AT_ONCE if then is RotationStep.ROLLBACK else UNCHANGED
        change = new_primary(
            self.store.view, secret, after, self._id(), stored.record.started_by, how
        )
        rotation = msgspec.structs.replace(
            stored.record,
            step=then,
            attempts=0,
            next_try_at=0.0,
            rollout=stored.record.rollout or RolloutId(change.rollout.id),
        )
        detail = f"version {after.primary.number} is primary"
        await self.commit([*change.steps, *more, Replace(stored, rotation)], rotation, detail)

    async def _call(self, stored: Stored[RotationRecord], action: HookAction) -> None:
        """Call the hook, with the attempt on record before and its outcome after."""
        begun = attempted(stored.record, self._now_s())
        told = f"hook {begun.hook} is told {action.value} of version {begun.version}"
        await self.commit([Replace(stored, begun)], begun, told)
        call = self._message(begun, action)
        try:
            await self.hooks.call(begun.hook, call)
        except HookFailed as error:
            log.warning(
                "rotation.hook_failed",
                secret=begun.name,
                operation=begun.id,
                action=action.value,
                reason=error.message,
            )
            after = refused(begun, error.message, self._now_s())
        else:
            after = succeeded(begun, self._now_s())
        finally:
            _wipe(call)
        current = self.store.view.rotations.get(begun.id)
        if current is not None and current.record == begun:
            await self.become(current, after)

    async def become(self, stored: Stored[RotationRecord], move: Become) -> None:
        """Write what a rotation becomes; one that is over leaves no older ones of its secret."""
        view, after = self.store.view, move.record
        if after == stored.record:
            return
        steps: list[Step] = [Replace(stored, after)]
        if move.drop:
            steps += candidate_removal(view, stored.record)
        if after.finished_at is not None:
            steps += _older(view, after)
            _tell_end(after)
        await self.commit(steps, after, after.step.value)

    def _message(self, rotation: RotationRecord, action: HookAction) -> HookCall:
        return HookCall(
            operation=rotation.id,
            action=action,
            secret=rotation.name,
            new=self._credential(rotation, rotation.version or VersionNumber(0)),
            previous=self._credential(rotation, rotation.previous),
        )

    def _credential(self, rotation: RotationRecord, number: VersionNumber) -> Credential:
        value: SecretBytes | None
        try:
            value = self.store.open_value(rotation.secret_id, number)
        except VersionNotFound:
            value = None
        return Credential(number, value)

    def _secret(self, rotation: RotationRecord) -> Stored[SecretRecord]:
        stored = self.store.view.secrets.get(rotation.secret_id)
        if stored is None:
            raise StaleVersion
        return stored

    async def commit(self, steps: Sequence[Step], rotation: RotationRecord, detail: str) -> None:
        """Write steps of a rotation under the guard, with their audit entry."""
        resource = Resource(Kind.SECRET.value, rotation.name)
        now = self.clock.now()
        entry = authorize(self.principal, Action.ROTATION_STEP, resource, now)
        entry = msgspec.structs.replace(
            entry, detail=f"{rotation.id}: {detail}", request_id=rotation.request_id
        )
        await self.store.commit(self.guarded(Write(tuple(steps), (entry,))))

    def _now_s(self) -> float:
        return self.clock.now().timestamp()

    def _id(self) -> str:
        return format_id(self.entropy.token(ID_SIZE))


def _older(view: View, over: RotationRecord) -> Iterable[Step]:
    for stored in rotations_of(view, over.secret_id):
        if stored.record.id != over.id and stored.record.finished_at is not None:
            yield Remove(stored)


def _tell_end(rotation: RotationRecord) -> None:
    if rotation.step is RotationStep.DONE:
        log.info("rotation.done", secret=rotation.name, version=rotation.version)
    else:
        log.warning("rotation.failed", secret=rotation.name, reason=rotation.error)


def _wipe(call: HookCall) -> None:
    for credential in (call.new, call.previous):
        if credential.value is not None:
            credential.value.wipe()
