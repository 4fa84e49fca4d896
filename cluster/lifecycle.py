"""Where a manager stands, and what moves it on.

    empty --init--> serving          a new cluster
    empty --join--> serving          a further manager
    locked --unlock--> starting --quorum--> serving          every restart
    serving --migrate--> migrating --> serving               on another engine, or as before
    starting --recover-quorum--> recovering --> serving      alone, or starting as before

A locked manager has no root key, no engine and no listener but its admin socket. What an unlocked
one runs is `cluster.unlocked`'s business; the process around it is `cluster.manager`'s. Source:
DESIGN 4 and 5, ADR 0010.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import structlog

from cluster.api.routes_admin import (
    InitRequest,
    JoinRequest,
    MigrateRequest,
    RecoverRequest,
    RenewRequest,
    Step,
    UnlockRequest,
)
from cluster.config import Config
from cluster.data_directory import DataDirectory
from cluster.engine.measured import MeasuredEngine
from cluster.engine_change import EngineChanges
from cluster.engine_join import completed, promoted, require_joined, start_learner
from cluster.engine_start import (
    StartedEngine,
    engine_kind,
    start_engine,
)
from cluster.failure_text import cluster_error, described
from cluster.founded_store import found_store
from cluster.joining import Joiner
from cluster.keyring_wait import wait_for_keyring
from cluster.metrics import Metrics
from cluster.migrating import check_followed, settle_import
from cluster.pki.join_token import JoinToken
from cluster.protocol.errors import (
    AlreadyExists,
    Conflict,
    IntegrityError,
    InvalidRequest,
    InvariantViolation,
    Locked,
    PermissionDenied,
    Unavailable,
)
from cluster.protocol.ids import ID_SIZE, ManagerId, format_id
from cluster.protocol.secret_bytes import SecretBytes
from cluster.recovery_directory import RecoveryDirectory
from cluster.seal.unlock import (
    SealFileContents,
    SealKey,
    UnlockKey,
    open_seal_file,
    rewrite_seal_file,
)
from cluster.sockets import bind_tcp, require_free
from cluster.standing import State
from cluster.store.sealed_store import SealedStore
from cluster.store.start_check import check_against_chains
from cluster.succession import require_no_successor
from cluster.system import Clock, Entropy
from cluster.unlocked import UnlockedManager

if TYPE_CHECKING:
    from cluster.store.view import IntegrityFault

__all__ = ["Lifecycle", "State"]

log = structlog.get_logger(__name__)

ENGINES: Final = frozenset({"sqlite", "etcd"})
QUORUM_LOOK_S: Final = 0.2


class Lifecycle:
    """One manager from empty or locked to serving; the admin socket's routes call it."""

    def __init__(self, config: Config, clock: Clock, entropy: Entropy) -> None:
        self.config = config
        self.clock = clock
        self.entropy = entropy
        self._directory = DataDirectory(config)
        self.state = State.LOCKED if self._directory.has_seal_file else State.EMPTY
        self.failed = asyncio.Event()
        """Set when what ran has ended by itself; the process ends then."""
        self.metrics = Metrics()
        self._step = ""
        self._moving = asyncio.Lock()
        self._changes = EngineChanges(self, config, clock, entropy, self._moving)
        self._serving = asyncio.Event()
        self._unlocked: UnlockedManager | None = None
        self._started: StartedEngine | None = None
        self._held: tuple[SealFileContents, SealKey] | None = None
        self._running: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._faults: list[IntegrityFault] = []
        self._sockets = bind_tcp(config.api_listen), bind_tcp(config.join_listen)

    def new_unlock_key(self) -> str:
        """Return a fresh unlock key's text; nothing is stored."""
        return UnlockKey.generate(self.entropy).text().reveal().decode()

    async def init(self, request: InitRequest) -> dict[str, object]:
        """Found a cluster with this manager as its first.

        Raises AlreadyExists where a manager's data lie, InvalidRequest, and what the engine raises.
        """
        unlock_key = UnlockKey.parse(SecretBytes(request.unlock_key.encode()))
        if request.engine not in ENGINES:
            raise InvalidRequest("the engine is sqlite or etcd")
        async with self._moving:
            self._require_empty()
            if request.engine == "etcd":
                require_free(self.config.peer_listen)
            founded = await found_store(self.config, request, unlock_key, self.clock, self.entropy)
            self._begin(founded.founding.contents, founded.seal_key, founded.started)
            await self._until_serving()
        return founded.founding.reply

    async def join(self, request: JoinRequest) -> AsyncIterator[Step]:
        """Join this manager to a cluster, step by step; a repeated call goes on where it
        stopped."""
        unlock_key = UnlockKey.parse(SecretBytes(request.unlock_key.encode()))
        token = JoinToken.parse(request.token)
        async with self._moving:
            if self.state not in {State.EMPTY, State.LOCKED}:
                raise Conflict("this manager is part of a cluster already")
            if not self._directory.has_seal_file:
                self._directory.require_no_data()
                await asyncio.to_thread(self._directory.remove_unfounded)
            require_free(self.config.peer_listen)
            joiner = Joiner(self.config, self.entropy)
            yield Step("asking to be let in")
            admitted = await asyncio.to_thread(joiner.ask, token, unlock_key, request.managers)
            yield Step("becoming a learner")
            started = await start_learner(joiner, admitted, self.clock, self.entropy)
            try:
                yield Step("catching up")
                await promoted(joiner, admitted)
                contents = await asyncio.to_thread(joiner.complete, admitted)
            except BaseException:
                await started.stop()
                raise
            self._begin(contents, admitted.seal_key, started)
            yield Step("opening the store")
            await self._until_serving()
        yield Step(done=True)

    async def unlock(self, request: UnlockRequest) -> AsyncIterator[Step]:
        """Unlock this manager, and tell how it goes until it serves."""
        key = UnlockKey.parse(SecretBytes(request.unlock_key.encode()))
        await self.unlock_with(key)
        said = ""
        while not self._serving.is_set():
            ended = self._running is None or self._running.done()
            if ended and self.state is not State.RECOVERING:
                raise cluster_error(self._failure)
            if self._step != said:
                said = self._step
                yield Step(said)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._serving.wait(), QUORUM_LOOK_S)
        yield Step(done=True)

    def migrate(self, request: MigrateRequest) -> AsyncIterator[Step]:
        """Move the store to another engine, step by step."""
        return self._changes.migrate(request)

    async def lost_quorum(self) -> dict[str, object]:
        """Return what this manager can see of a lost quorum."""
        return await self._changes.lost_quorum()

    def recover_quorum(self, request: RecoverRequest) -> AsyncIterator[Step]:
        """Make a cluster of this manager alone, step by step."""
        return self._changes.recover_quorum(request)

    async def status(self) -> dict[str, object]:
        """Return what this manager knows of itself, and of the cluster if it serves."""
        own: dict[str, object] = {
            "name": self.config.name,
            "state": self.state.value,
            "step": self._step,
            "ready": self.health()[0],
            "reason": self.health()[1],
            "unlocks_by_itself": self.config.unlock_key_file is not None,
        }
        if self._unlocked is not None and self.state is State.SERVING:
            # What is poisoned cannot be counted; `reason` names it.
            with contextlib.suppress(IntegrityError):
                own["cluster"] = await self._unlocked.status.summary()
        return own

    async def renew_operator(self, request: RenewRequest) -> dict[str, object]:
        """Renew an operator's certificate as local root: the way back for one whose certificate ran
        out."""
        return dict(await self.serving().cases.operators.renew_as_root(request.name, request.csr))

    async def recover_space(self) -> dict[str, object]:
        """Free space in this manager's engine after its quota was reached."""
        return await self.engine().recover_space()

    def engine(self) -> StartedEngine:
        """Return the engine that runs. Raises Locked, Unavailable."""
        if self._started is None:
            raise Locked if self.state is State.LOCKED else Unavailable
        return self._started

    def serving(self) -> UnlockedManager:
        """Return what serves; raise Locked or Unavailable while nothing does."""
        if self._unlocked is None or self.state is not State.SERVING:
            raise Locked if self.state is State.LOCKED else Unavailable
        return self._unlocked

    def health(self) -> tuple[bool, str]:
        """Return whether this manager can serve, and if not, why."""
        if self.state is not State.SERVING or self._unlocked is None:
            return False, f"the manager is {self.state.value}"
        if self._faults:
            return False, f"stored data of kind {self._faults[0].kind} failed its integrity check"
        reason = self._unlocked.writability.reason
        return not reason, reason

    # --- exchanging the engine (cluster.engine_change) ---

    def require_intact(self) -> None:
        """Raise unless this manager serves and its records passed their checks."""
        self.serving()
        if self._faults:
            raise IntegrityError("the store is not intact; see docs/how-to/integrity.md")

    async def pause(self, state: State) -> tuple[SealFileContents, SealKey]:
        """Stop what is served and let go of its ports and of the engine, which goes on."""
        if self._held is None:
            raise InvariantViolation("an engine runs only while its seal file is open")
        contents, seal_key = self._held
        if self._unlocked is not None:
            contents = self._unlocked.present_contents
        self.state = state
        self._serving.clear()
        self._unlocked = None
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        for bound in self._sockets:
            bound.close()
        self._started = None
        return contents, seal_key

    async def resume(
        self,
        contents: SealFileContents,
        seal_key: SealKey,
        started: StartedEngine,
        *,
        wait: bool = True,
    ) -> None:
        """Serve from an engine; return once it does, or at once with `wait` false."""
        self._started = started
        self._sockets = bind_tcp(self.config.api_listen), bind_tcp(self.config.join_listen)
        self._begin(contents, seal_key, started)
        if wait:
            await self._until_serving()

    def give_up(self) -> None:
        """End the process: there is no engine."""
        self.state = State.FAILED
        self.failed.set()

    # --- moving on ---

    def _require_empty(self) -> None:
        if self.state is not State.EMPTY or self._directory.has_seal_file:
            raise AlreadyExists(
                "this manager has been initialised; a new cluster needs an empty data directory"
            )
        self._directory.require_no_data()

    async def unlock_with(self, key: UnlockKey) -> None:
        """Open the seal file and start; returns before there is a quorum."""
        async with self._moving:
            if self.state is State.EMPTY:
                raise Conflict(
                    "this manager has no cluster; run `strongroom init` or `strongroom join`"
                )
            if self.state is not State.LOCKED:
                return
            contents, seal_key = await asyncio.to_thread(open_seal_file, self.config.seal_file, key)
            self._directory.end_founding()  # it may have been cut short after the seal file
            await asyncio.to_thread(RecoveryDirectory(self.config).settle)
            require_joined(self.config, contents)
            self._step = "starting the engine"
            await asyncio.to_thread(settle_import, self.config)
            kind = engine_kind(self.config)
            started = await start_engine(self.config, kind, contents, self.clock, self.entropy)
            if contents.pending:
                contents = await completed(self.config, contents, started)
                await asyncio.to_thread(
                    rewrite_seal_file, self.config.seal_file, seal_key, contents, self.entropy
                )
            self._begin(contents, seal_key, started)

    def _begin(self, contents: SealFileContents, seal_key: SealKey, started: StartedEngine) -> None:
        self.state = State.STARTING
        self._started = started
        self._held = contents, seal_key
        self._running = asyncio.create_task(
            self._serve(contents, seal_key, started), name="unlocked"
        )
        self._running.add_done_callback(self._ended)

    async def _serve(
        self, contents: SealFileContents, seal_key: SealKey, started: StartedEngine
    ) -> None:
        async with asyncio.TaskGroup() as group:
            if started.member is not None:
                group.create_task(self._until_removed(started.member.removed))
            group.create_task(self._serve_store(contents, seal_key, started))

    async def _serve_store(
        self, contents: SealFileContents, seal_key: SealKey, started: StartedEngine
    ) -> None:
        keyring = await wait_for_keyring(started, contents.root_key, self._tell)
        await require_no_successor(started)
        await check_followed(self.config, started)
        self._step = "reading the store"
        store = await SealedStore.open(
            MeasuredEngine(started.engine, self.metrics, self.clock),
            keyring,
            root_key=contents.root_key,
            manager_id=ManagerId(contents.manager_id),
            boot=format_id(self.entropy.token(ID_SIZE)),
            clock=self.clock,
            entropy=self.entropy,
            on_fault=self._faults.append,
        )
        try:
            self._unlocked = UnlockedManager(
                self.config, contents, seal_key, started, store, self.clock, self.entropy,
                *self._sockets, health=self.health, metrics=self.metrics,
            )  # fmt: skip
            self._step = "opening the listeners"
            async with asyncio.TaskGroup() as group:
                group.create_task(store.failure(), name="store-failure")
                group.create_task(check_against_chains(store), name="start-check")
                group.create_task(self._unlocked.serve(self._now_serving))
        finally:
            await store.close()

    async def _until_removed(self, removed: asyncio.Event) -> None:
        await removed.wait()
        raise PermissionDenied(
            "this manager was removed from the cluster; wipe its data directory to use it again"
        )

    def _tell(self, step: str) -> None:
        self._step = step

    def _now_serving(self) -> None:
        self._step = ""
        self.state = State.SERVING
        self._serving.set()
        log.info("manager.serving", name=self.config.name)

    async def _until_serving(self) -> None:
        while not self._serving.is_set():
            if self._running is None or self._running.done():
                raise cluster_error(self._failure)
            await asyncio.sleep(0.02)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        self._failure = task.exception()
        if self._failure is not None:
            self.state = State.FAILED
            log.error("manager.failed", error=described(self._failure))
            self.failed.set()

    async def stop(self) -> None:
        """End what runs, and the engine after it."""
        await self._changes.background.stop()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._started is not None:
            await self._started.stop()
        for bound in self._sockets:
            bound.close()
