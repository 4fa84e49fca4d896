"""`/v1/rollouts`: how far changes have come, and what to do with one under way."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cluster.api.edge import Edge
from cluster.control.requests import JSON
from cluster.control.rollout_actions import RolloutActions
from cluster.control.rollout_status import RolloutStatus
from cluster.store.view import ViewChange

WAIT_LIMIT_S = 30.0
"""A long poll ends after this; the caller asks again."""
REST_PER_TASK_S: Final = 1e-4
"""Of a task, between two looks of a long poll: some six times what a look takes."""


def routes(edge: Edge, rollouts: RolloutStatus, actions: RolloutActions) -> APIRouter:
    """Return the routes on rollouts."""
    router = APIRouter(prefix="/v1/rollouts", tags=["rollouts"])

    @router.get("")
    async def list_rollouts(request: Request) -> Response:
        """List rollouts, the newest first; finished ones are kept for a while only."""
        return edge.answer({"rollouts": rollouts.list(await edge.principal(request))})

    @router.get("/{rollout_id}")
    async def inspect_rollout(
        request: Request,
        rollout_id: str,
        wait: Annotated[float, Query(ge=0, le=WAIT_LIMIT_S)] = 0.0,
        after: Annotated[int | None, Query(ge=0)] = None,
    ) -> Response:
        """Show how far a rollout has come; with `wait`, answer when it is complete or paused, or
        after so many seconds; with `after` as well, and where it goes out in groups, as soon as its
        `step` is another one."""
        principal = await edge.principal(request)
        changed = asyncio.Event()

        def on_change(_change: ViewChange) -> None:
            changed.set()

        unsubscribe = edge.store.view.subscribe(on_change)
        try:
            async with asyncio.timeout(wait or None):
                while True:
                    changed.clear()
                    progress = rollouts.inspect(principal, rollout_id)
                    stepwise = progress["policy"] is not None and after is not None
                    moved = stepwise and progress["step"] != after
                    if progress["done"] or moved or not wait:
                        return edge.answer(progress)
                    await changed.wait()
                    await asyncio.sleep(_rest_s(progress))
        except TimeoutError:
            return edge.answer(rollouts.inspect(principal, rollout_id))
        finally:
            unsubscribe()

    @router.post("/{rollout_id}/pause")
    async def pause_rollout(request: Request, rollout_id: str) -> Response:
        """Release nothing more until it is resumed."""
        answer = await actions.pause(await edge.context(request), rollout_id)
        return edge.answer(answer.body, answer.status)

    @router.post("/{rollout_id}/resume")
    async def resume_rollout(request: Request, rollout_id: str) -> Response:
        """Let a paused rollout go on; what failed gets its time once more."""
        answer = await actions.resume(await edge.context(request), rollout_id)
        return edge.answer(answer.body, answer.status)

    @router.post("/{rollout_id}/rollback")
    async def roll_rollout_back(request: Request, rollout_id: str) -> Response:
        """Take back what an unfinished rollout brought so far, everywhere at once."""
        answer = await actions.rollback(await edge.context(request), rollout_id)
        return edge.answer(answer.body, answer.status)

    return router


def _rest_s(progress: Mapping[str, JSON]) -> float:
    """Return how long to wait for reports that come together with the one that came: a look costs
    as much as there are tasks."""
    total = progress["total"]
    return REST_PER_TASK_S * total if isinstance(total, int) else 0.0
