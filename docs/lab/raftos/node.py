"""One raftos node as a process: commands come as JSON lines, answers go out as JSON lines.

    node.py --listen HOST:PORT --peer HOST:PORT ... --directory DIR --heartbeat SECONDS [--repaired]

A command is {"id": 1, "do": "set", "name": "k", "value": "v"}; others are `get` and `state`. Each
runs beside the others and is answered with its id once raftos is through with it, so a command that
raftos never finishes is never answered. Ends when its input does. Runs in raftos' own venv.

`--repaired` counts the node itself among those of whom a majority is needed, which raftos forgets:
the control that shows what it is that a split brings out.
"""

import argparse
import asyncio
import json
import sys
from typing import Any

import raftos  # type: ignore[import-not-found]  # in its own venv alone
import raftos.serializers  # type: ignore[import-not-found]  # as above
import raftos.server  # type: ignore[import-not-found]  # as above
import shim  # type: ignore[import-not-found]  # beside this file


def say(message: dict[str, Any]) -> None:
    """Answer with one line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def state() -> dict[str, Any]:
    """Return what the node takes itself for."""
    own = raftos.server.Node.nodes[0].state
    return {"role": type(own.state).__name__, "term": own.storage.term, "log": len(own.log)}


def is_majority(self: Any, count: int) -> bool:  # noqa: ANN401  # raftos' state
    """Return whether so many are more than half of all nodes, this one included."""
    others: int = self.server.cluster_count
    return count > (others + 1) // 2


async def carry_out(command: dict[str, Any]) -> None:
    """Do what a command says, through the interface that raftos documents."""
    try:
        match command["do"]:
            case "set":
                await raftos.Replicated(command["name"]).set(command["value"])
                answer: Any = True
            case "get":
                answer = await raftos.Replicated(command["name"]).get()
            case _:
                answer = state()
    except Exception as error:  # noqa: BLE001  # whatever the library raises is what we are to see
        say({"id": command["id"], "error": f"{type(error).__name__}: {error}"})
    else:
        say({"id": command["id"], "answer": answer})


async def main(arguments: argparse.Namespace) -> None:
    """Serve until the input ends."""
    loop = asyncio.get_running_loop()
    await raftos.register(arguments.listen, cluster=[arguments.listen, *arguments.peer])
    say({"listening": arguments.listen})
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running = set()
    while line := await reader.readline():
        task = asyncio.create_task(carry_out(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--directory", required=True)
    parser.add_argument("--heartbeat", type=float, required=True)
    parser.add_argument("--repaired", action="store_true")
    given = parser.parse_args()
    shim.apply()
    if given.repaired:
        raftos.State.is_majority = is_majority
    raftos.configure(
        {
            "log_path": given.directory,
            "heartbeat_interval": given.heartbeat,
            # The other one writes a byte that reads as the end of a line into a log of lines.
            "serializer": raftos.serializers.JSONSerializer,
        }
    )
    asyncio.run(main(given))
