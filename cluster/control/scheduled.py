"""Secrets that make their next value by themselves: by a schedule, or when an operator asks.

Owns what operators may ask for. Carrying a rotation out is `rotation_duty`'s business; what follows
what, `rotation_steps`'. No answer here holds a value. Source:
docs/explanation/scheduled-rotation.md.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from cluster.control.generators import recipe
from cluster.control.policy import Action, Principal, Resource
from cluster.control.requests import JSON, Answer, Decision, RequestContext, Requests
from cluster.control.rotation_records import candidate_removal, new_rotation, open_rotation
from cluster.control.rotation_shown import shown_rotation, shown_schedule
from cluster.control.rotation_steps import given_up
from cluster.control.secrets import get_secret, secret_resource
from cluster.hook.contract import Hooks
from cluster.protocol.errors import Conflict, HookFailed, InvalidRequest, NotFound
from cluster.protocol.ids import ID_SIZE, SecretId, check_name, format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import (
    Kind,
    RotationRecord,
    RotationSchedule,
    RotationStep,
    SecretRecord,
)
from cluster.store.steps import Create, Replace, Step
from cluster.store.view import Stored, View
from cluster.system import Entropy

SHORTEST_S: Final = 60.0
LONGEST_S: Final = 366 * 86_400.0
_BEFORE_PUSH: Final = frozenset({RotationStep.GENERATE, RotationStep.PREPARE, RotationStep.PUSH})


class ScheduleDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a secret is to rotate by itself; what is None stays as it is."""

    every_s: float | None = None
    """0: only when somebody asks."""
    generator: str | None = None
    length: int | None = None
    hook: str | None = None
    """"": none."""


class RotationDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the next value is made; empty: as the secret's schedule says."""

    generator: str = ""
    length: int = 0


class Scheduled:
    """What operators may do with values that the cluster makes."""

    def __init__(self, requests: Requests, entropy: Entropy, hooks: Hooks) -> None:
        self._requests = requests
        self._entropy = entropy
        self._hooks = hooks

    async def make(
        self, principal: Principal, name: str, labels: Mapping[str, str], draft: RotationDraft
    ) -> SecretBytes:
        """Return a value for a new secret. Raises PermissionDenied, InvalidRequest."""
        # Before the work: whoever may not create a secret must not cost a processor's time.
        resource = Resource(Kind.SECRET.value, check_name(name), labels)
        self._requests.check(principal, Action.SECRET_CREATE, resource)
        made = recipe(draft.generator, draft.length)
        # Not in the event loop: an RSA key takes its time.
        return await asyncio.to_thread(made.make, self._entropy)

    async def set_schedule(
        self, context: RequestContext, name: str, draft: ScheduleDraft
    ) -> Answer:
        """Make a secret rotate by itself, or change how. Raises InvalidRequest, SecretNotFound."""
        before = self._schedule(name)
        hooked = bool(draft.hook or (before is not None and before.hook))
        if draft.hook:
            self._check_hook(draft.hook)

        def decide(view: View) -> Decision:
            stored = get_secret(view, name)
            if stored.record.schedule != before:
                raise Conflict("the schedule was changed meanwhile; look again and retry")
            schedule = self._drafted(stored.record, draft)
            after = msgspec.structs.replace(
                stored.record, schedule=schedule, updated_at=self._now_s()
            )
            return Decision([Replace(stored, after)], {"name": name, **shown_schedule(schedule)})

        # A hook acts at the third party with the manager's rights: which one, an admin says.
        action = Action.HOOK_USE if hooked else Action.SECRET_UPDATE
        return await self._requests.run_once(
            context, action, lambda view: [secret_resource(view, name)], decide
        )

    async def remove_schedule(self, context: RequestContext, name: str) -> Answer:
        """Let a secret rotate by hand only; a rotation under way goes on to its end."""

        def decide(view: View) -> Decision:
            stored = get_secret(view, name)
            after = msgspec.structs.replace(stored.record, schedule=None, updated_at=self._now_s())
            steps = [] if stored.record.schedule is None else [Replace(stored, after)]
            return Decision(steps, {"name": name})

        return await self._requests.run_once(
            context, Action.SECRET_UPDATE, lambda view: [secret_resource(view, name)], decide
        )

    async def start(
        self, context: RequestContext, name: str, draft: RotationDraft | None = None
    ) -> Answer:
        """Start a rotation, by the secret's own schedule unless `draft` says how.

        One that has not made its new version primary yet is joined; behind any other the next one
        queues. Raises InvalidRequest without a schedule and a draft.
        """
        asked = draft or RotationDraft()
        if asked.generator:
            recipe(asked.generator, asked.length)

        def decide(view: View) -> Decision:
            stored = get_secret(view, name)
            running = open_rotation(view, SecretId(stored.record.id))
            if running is not None:
                return self._queued(stored, running)
            rotation = new_rotation(
                stored.record,
                self._drawn_id(),
                self._now_s(),
                context.principal.name,
                recipe(asked.generator, asked.length) if asked.generator else None,
                request_id=context.request_id,
            )
            # The secret's record is written with it: of two managers that start one, one conflicts.
            touched = msgspec.structs.replace(stored.record, updated_at=self._now_s())
            steps: list[Step] = [Replace(stored, touched), Create(rotation)]
            return Decision(steps, _started(rotation, queued=False))

        return await self._requests.run_once(
            context, Action.SECRET_ROTATE, lambda view: [secret_resource(view, name)], decide
        )

    async def give_up(self, context: RequestContext, name: str) -> Answer:
        """Take a rotation that is under way back. Raises NotFound if there is none."""

        def decide(view: View) -> Decision:
            secret = get_secret(view, name).record
            running = open_rotation(view, SecretId(secret.id))
            if running is None:
                raise NotFound(f"no rotation of secret {name!r} is under way")
            after = given_up(running.record, "given up by an operator", self._now_s())
            steps: list[Step] = [Replace(running, after.record)]
            if after.drop:
                steps += candidate_removal(view, running.record)
            return Decision(steps, _started(after.record, queued=False))

        return await self._requests.run_once(
            context, Action.SECRET_ROTATE, lambda view: [secret_resource(view, name)], decide
        )

    def inspect(self, principal: Principal, name: str) -> dict[str, JSON]:
        """Return a secret's schedule and how its newest rotation stands. Raises SecretNotFound."""
        view = self._requests.store.view
        self._requests.check(principal, Action.SECRET_INSPECT, secret_resource(view, name))
        return shown_rotation(view, get_secret(view, name).record)

    def hooks(self, principal: Principal) -> list[dict[str, JSON]]:
        """Return the hooks of this manager: name, kind, and what is wrong with each."""
        self._requests.check(principal, Action.HOOK_LIST, Resource("hook"))
        return [
            {"name": name, "kind": kind, "problem": problem}
            for name, kind, problem in self._hooks.listed()
        ]

    def _schedule(self, name: str) -> RotationSchedule | None:
        stored = self._requests.store.view.secret_by_name(name)
        return stored.record.schedule if stored is not None else None

    def _check_hook(self, name: str) -> None:
        try:
            self._hooks.check(name)
        except HookFailed as error:
            raise InvalidRequest(error.message) from None

    def _drafted(self, secret: SecretRecord, draft: ScheduleDraft) -> RotationSchedule:
        before = secret.schedule or RotationSchedule(0.0, "")
        generator = before.generator if draft.generator is None else draft.generator
        if not generator:
            raise InvalidRequest("say how the values are made: --generate password, hex, rsa, ...")
        kept = before.length if generator == before.generator else 0
        made = recipe(generator, kept if draft.length is None else draft.length)
        every_s = before.every_s if draft.every_s is None else draft.every_s
        _check_every(every_s, secret)
        changed = every_s != before.every_s or before.next_at is None
        return RotationSchedule(
            every_s=every_s,
            generator=made.generator.value,
            length=made.length,
            hook=before.hook if draft.hook is None else draft.hook,
            next_at=next_time(every_s, self._now_s(), self._entropy) if changed else before.next_at,
        )

    def _queued(self, stored: Stored[SecretRecord], running: Stored[RotationRecord]) -> Decision:
        """Join a rotation that brings a new value yet, or let the next one follow it."""
        if running.record.step in _BEFORE_PUSH:
            return Decision([], _started(running.record, queued=False))
        schedule = stored.record.schedule
        if schedule is None:
            raise Conflict("a rotation of this secret is under way; wait until it is over")
        now_s = self._now_s()
        due = msgspec.structs.replace(schedule, next_at=now_s)
        after = msgspec.structs.replace(stored.record, schedule=due, updated_at=now_s)
        return Decision([Replace(stored, after)], _started(running.record, queued=True))

    def _drawn_id(self) -> str:
        return format_id(self._entropy.token(ID_SIZE))

    def _now_s(self) -> float:
        return self._requests.clock.now().timestamp()


def next_time(every_s: float, now_s: float, entropy: Entropy) -> float | None:
    """Return when the rotation after one at `now_s` is due: up to a twentieth earlier, so that what
    was set up together does not stay together. 0 is never."""
    return now_s + every_s * entropy.uniform(0.95, 1.0) if every_s else None


def _started(rotation: RotationRecord, *, queued: bool) -> dict[str, JSON]:
    return {
        "name": rotation.name,
        "operation": rotation.id,
        "step": rotation.step.value,
        "queued": queued,
    }


def _check_every(every_s: float, secret: SecretRecord) -> None:
    if not every_s:
        return
    if not SHORTEST_S <= every_s <= LONGEST_S:
        raise InvalidRequest("a secret rotates every minute at most, and every 366 days at least")
    if secret.overlap_s >= every_s:
        raise InvalidRequest(
            f"the secret's overlap of {secret.overlap_s:g} seconds is not shorter than the time "
            "between two rotations; shorten it with `strongroom secret update --overlap`"
        )
