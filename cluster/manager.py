"""A manager process: its directories, its admin socket, its signals, and the life inside.

Owns the process; where it stands and what moves it on is `cluster.lifecycle`'s. A locked manager
runs only its admin socket.
"""

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Final

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI

from cluster.api import routes_admin, routes_audit, routes_doctor, routes_metrics
from cluster.api.application import application
from cluster.api.bounded_http import BoundedHttpProtocol
from cluster.api.listener import Listener
from cluster.config import Config, supervisor
from cluster.gauges import state_gauges
from cluster.hardening import harden
from cluster.lifecycle import Lifecycle, State
from cluster.logs import configure_logs
from cluster.protocol.errors import ClusterError
from cluster.protocol.secret_bytes import SecretBytes
from cluster.seal.unlock import UnlockKey
from cluster.sockets import bind_admin, bind_tcp
from cluster.system import SystemClock, SystemEntropy

log = structlog.get_logger(__name__)

COLLECT_AT: Final = (10_000, 5, 5)
"""New objects after which the collector of cycles looks, and how often at older ones. Python's own
700 cost a sixth of the processor's time: a rotation to many agents makes hundreds of thousands of
objects, nearly all of which go by their count of references."""


def run(config: Config) -> int:
    """Run a manager until it is told to stop, and return its exit code."""
    configure_logs(config.log_format)
    harden()
    gc.freeze()  # code and tables of routes: they stay, and need not be looked through
    gc.set_threshold(*COLLECT_AT)
    config = replace(config, data_dir=config.data_dir.absolute(), run_dir=config.run_dir.absolute())
    _prepare_directories(config)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(config))


async def _run(config: Config) -> int:
    life = Lifecycle(config, SystemClock(), SystemEntropy())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listener, bound = _admin(life)
    serving = asyncio.create_task(listener.serve(sockets=[bound]), name="admin")
    measured = _local_metrics(life)
    log.info("manager.started", state=life.state.value, name=config.name)
    telling = asyncio.create_task(
        supervisor().run(lambda: _told(life) if listener.started else ""), name="supervisor"
    )
    try:
        await _unlock_by_provider(life)
        await _first(stop.wait(), life.failed.wait(), serving)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        await life.stop()
        listener.should_exit = True
        if measured is not None:
            measured.cancel()
            await asyncio.gather(measured, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        config.admin_socket.unlink(missing_ok=True)
    return 1 if life.failed.is_set() else 0


def _told(life: Lifecycle) -> str:
    """Return how the manager stands, in a line for its supervisor."""
    ready, reason = life.health()
    if life.state is State.LOCKED:
        return "locked; run `strongroom unlock` as root"
    if life.state is State.SERVING:
        return "serving" if ready else f"serving, but not ready: {reason}"
    return life.state.value


async def _first(*waits: Coroutine[Any, Any, object] | asyncio.Task[None]) -> None:
    """Return when the first of `waits` is over."""
    tasks = [
        wait if isinstance(wait, asyncio.Task) else asyncio.create_task(wait) for wait in waits
    ]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks[:-1]:
        task.cancel()


async def _unlock_by_provider(life: Lifecycle) -> None:
    path = life.config.unlock_key_file
    if path is None or life.state is not State.LOCKED:
        return
    try:
        text = SecretBytes(await asyncio.to_thread(path.read_bytes))
        await life.unlock_with(UnlockKey.parse(text))
    except (OSError, ClusterError) as error:
        # It stays locked and says so, and a person can still unlock it. The error's text could
        # quote the file.
        log.warning("unlock.provider_failed", error=type(error).__name__)


def _prepare_directories(config: Config) -> None:
    for directory in (config.data_dir, config.run_dir):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)


def _admin(life: Lifecycle) -> tuple[Listener, socket.socket]:
    app = application(
        "Strongroom admin socket",
        routes_admin.routes(life),
        routes_doctor.routes(lambda: life.serving().member_checks()),
        routes_audit.archive_routes(lambda: life.serving().archives),
    )
    return _plain(app), bind_admin(life.config.admin_socket)


def _local_metrics(life: Lifecycle) -> "asyncio.Task[None] | None":
    """Serve metrics and health on loopback, where that is configured, locked or not."""
    address = life.config.metrics_listen
    if address is None:
        return None
    app = application(
        "Strongroom metrics",
        routes_metrics.local_routes(lambda: _read_metrics(life), life.health),
    )
    serving = _plain(app).serve(sockets=[bind_tcp(address)])
    return asyncio.create_task(serving, name="metrics")


async def _read_metrics(life: Lifecycle) -> bytes:
    if life.state is State.SERVING:
        return await life.serving().read_metrics()
    return life.metrics.render(state_gauges(life.state, ready=False))


def _plain(app: FastAPI) -> Listener:
    return Listener(
        uvicorn.Config(
            app,
            http=BoundedHttpProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
