"""Long polls: answer when something is over, or after so many seconds with how it stands."""

import asyncio
from collections.abc import Callable, Mapping

from cluster.control.requests import JSON
from cluster.store.view import View, ViewChange


async def until_over(
    view: View,
    look: Callable[[], Mapping[str, JSON]],
    is_over: Callable[[Mapping[str, JSON]], bool],
    wait_s: float,
) -> Mapping[str, JSON]:
    """Return what `look` says once it is over, or after `wait_s` seconds; 0 is now.

    Looks again at each change of the view; `look` authorises, so rights taken away end the wait.
    """
    changed = asyncio.Event()

    def on_change(_change: ViewChange) -> None:
        changed.set()

    unsubscribe = view.subscribe(on_change)
    try:
        async with asyncio.timeout(wait_s or None):
            while True:
                changed.clear()
                found = look()
                if not wait_s or is_over(found):
                    return found
                await changed.wait()
    except TimeoutError:
        return look()
    finally:
        unsubscribe()
