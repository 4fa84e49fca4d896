"""A survivor goes on alone: cut short at every step, in a life that no old member is part of."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cluster.api.routes_admin import InitRequest, RecoverRequest, UnlockRequest
from cluster.config import Address, Config
from cluster.engine_start import StartedEngine, start_engine
from cluster.lifecycle import Lifecycle, State
from cluster.pki.csr import make_csr, new_key
from cluster.protocol.errors import (
    ClusterError,
    Conflict,
    InvalidRequest,
    PermissionDenied,
    Unavailable,
    WrongEngine,
)
from cluster.protocol.ids import Incarnation
from cluster.protocol.secret_bytes import SecretBytes
from cluster.quorum_recovery import Recovery
from cluster.recovery_directory import RecoveryDirectory
from cluster.seal.unlock import SealFileContents
from cluster.store.records import (
    JoinTokenRecord,
    Kind,
    ManagerRecord,
    ManagerState,
    NameRecord,
    Record,
    TokenRole,
    name_id,
)
from cluster.store.sealed_store import Create, Write
from cluster.succession import require_no_successor
from cluster.system import SystemClock, SystemEntropy
from tests.support.etcd_cluster import need_etcd
from tests.support.running import free_ports
from tests.support.stores import secret, sqlite_lab, value

PATIENCE_S = 240.0
YES = RecoverRequest(data_may_be_lost=True)
NOT_YET = frozenset({"stopping what is served", "copying the engine's data"})
"""Steps at which nothing is on the disk yet."""


def _config(base: Path, name: str) -> Config:
    api, join, peer = (Address("127.0.0.1", port) for port in free_ports(3))
    data_dir, run_dir = base / name / "data", base / name / "run"
    for directory in (data_dir, run_dir):
        directory.mkdir(mode=0o700, parents=True)
    return Config(name, "127.0.0.1", data_dir, run_dir, api, join, peer, etcd=need_etcd())


@dataclass
class Two:
    """A manager, and a second voter that is gone when it is stopped."""

    survivor: Config
    lost: Config
    key: str = ""
    before: Incarnation = field(default_factory=lambda: Incarnation(0, ""))
    contents: SealFileContents | None = None

    async def start_lost(self, members: dict[str, str] | None = None) -> StartedEngine:
        """Start the second voter, for the first time with `members`."""
        assert self.contents is not None
        return await start_engine(
            self.lost, "etcd", self.contents, SystemClock(), SystemEntropy(),
            initial_cluster=members, state="existing",
        )  # fmt: skip


@asynccontextmanager
async def living(config: Config) -> AsyncIterator[Lifecycle]:
    life = Lifecycle(config, SystemClock(), SystemEntropy())
    try:
        yield life
    finally:
        await life.stop()


def _records(lost: Config) -> tuple[Record, ...]:
    """Return the second manager's record, and a token that lets a manager in."""
    return (
        ManagerRecord(
            id="m2-id", name="m2", state=ManagerState.ACTIVE, api_address=lost.api_address,
            join_address=lost.join_address, peer_address=lost.peer_address, joined_at=0.0,
            serials=("aa",),
        ),
        NameRecord(id=name_id(Kind.MANAGER, "m2"), owner="m2-id"),
        *(
            JoinTokenRecord(
                id=role.value, role=role, digest=b"d", expires_at=4e9, uses_left=1,
                created_at=0.0, created_by="ada",
            )
            for role in (TokenRole.MANAGER, TokenRole.WORKER)
        ),
    )  # fmt: skip


@pytest.fixture
async def two(tmp_path: Path) -> Two:
    """Two voters that hold a secret; both are stopped."""
    two = Two(_config(tmp_path, "m1"), _config(tmp_path, "m2"))
    async with living(two.survivor) as life:
        two.key = life.new_unlock_key()
        csr = make_csr(new_key())
        await life.init(InitRequest(two.key, "etcd", "test.strongroom", "ada", csr))
        serving = life.serving()
        two.contents, two.before = serving.contents, serving.store.incarnation
        creations = (secret("s", 1), value("s", 1, b"kept"), *_records(two.lost))
        await serving.store.commit(Write(tuple(map(Create, creations))))
        assert serving.started.etcd is not None
        membership = serving.started.etcd.membership
        members = await membership.add_learner(two.lost.peer_address)
        named = {one.name or two.lost.name: one.peer_address for one in members}
        second = await two.start_lost(named)
        (learner,) = (one for one in members if one.is_learner)
        await membership.promote(learner.member_id)
        await second.stop()
    return two


async def _unlock_alone(life: Lifecycle, two: Two) -> None:
    """Unlock a manager that has no quorum, as with --detach, and see that it waits for one."""
    steps = life.unlock(UnlockRequest(two.key))
    async with asyncio.timeout(PATIENCE_S):
        async for step in steps:
            if step.step == "waiting for quorum, 1 of 2":
                return
    pytest.fail("there was a quorum")


async def _unlock(life: Lifecycle, two: Two) -> None:
    async with asyncio.timeout(PATIENCE_S):
        async for _ in life.unlock(UnlockRequest(two.key)):
            pass


async def _recover(life: Lifecycle) -> list[str]:
    async with asyncio.timeout(PATIENCE_S):
        return [step.step async for step in life.recover_quorum(YES)]


def _kept(life: Lifecycle) -> bytes:
    assert life.state is State.SERVING
    assert life.health() == (True, "")
    opened = life.serving().store.open_value("s", 1)  # type: ignore[arg-type]  # plain ids
    return opened.reveal()


@pytest.mark.threat("T-52")
async def test_survivor_goes_on_alone_and_believes_no_old_one(two: Two) -> None:
    """It serves what it held, in a new life without the others; an old member that comes back
    finds that out, and did not mind its peer before."""
    async with living(two.survivor) as life:
        await _unlock_alone(life, two)
        waiting = asyncio.create_task(_unlock(life, two))  # somebody else's, without --detach
        said = await _recover(life)
        await waiting
        assert said[0] == "stopping what is served"
        assert "going over to it" in said
        assert _kept(life) == b"kept"
        store = life.serving().store
        assert store.incarnation.counter > two.before.counter
        assert store.incarnation.unique != two.before.unique
        gone = store.view.managers.get("m2-id")
        assert gone is not None
        assert gone.record.state is ManagerState.REMOVED
        assert gone.record.serials == ()
        assert store.view.names.get(name_id(Kind.MANAGER, "m2")) is None
        assert {one.record.id for one in store.view.join_tokens.values()} == {"worker"}
        with pytest.raises(Conflict, match="the quorum is not lost"):
            await life.lost_quorum()
        second = await two.start_lost()
        try:
            async with asyncio.timeout(PATIENCE_S):
                assert "recovered without this manager" in await _until_refused(second)
        finally:
            await second.stop()
    async with living(two.survivor) as life:
        await _unlock(life, two)
        assert _kept(life) == b"kept"


async def _until_refused(second: StartedEngine) -> str:
    """Return what the old member is told, once it is refused."""
    while True:
        try:
            await require_no_successor(second)
        except PermissionDenied as error:
            return error.message
        await asyncio.sleep(0.05)


async def test_peers_of_one_life_have_no_successor(two: Two) -> None:
    """The control: both old voters come back, and neither minds the other."""
    async with living(two.survivor) as life:
        second = await two.start_lost()
        try:
            await _unlock(life, two)
            assert _kept(life) == b"kept"
            await require_no_successor(second)
            with pytest.raises(Conflict, match="the quorum is not lost"):
                await _recover(life)
            assert _kept(life) == b"kept"
        finally:
            await second.stop()


@pytest.mark.slow
async def test_failed_recovery_leaves_the_manager_waiting(two: Two) -> None:
    """Somebody may try again: the next test does."""
    obstacle = two.survivor.run_dir / "recovered"
    async with living(two.survivor) as life:
        await _unlock_alone(life, two)
        obstacle.write_text("the new engine runs in a directory of this name")
        with pytest.raises(Unavailable, match="see the manager's log"):
            await _recover(life)
        assert life.state is State.STARTING
        assert two.lost.peer_address in await _unreachable(life)
        assert not RecoveryDirectory(two.survivor).survivor.exists()


async def _unreachable(life: Lifecycle) -> str:
    """Return who does not answer, once the engine that was started again knows who there is."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return str((await life.lost_quorum())["unreachable"])
            except Conflict:
                await asyncio.sleep(0.05)


@pytest.mark.slow  # an engine starts some twenty times
async def test_cut_short_at_every_step_it_is_the_old_state_or_the_new(two: Two) -> None:
    """The process ends after each step in turn; what is left can be recovered again."""
    place = RecoveryDirectory(two.survivor)
    step, ended = 0, False
    while not ended:
        said: list[str] = []
        async with living(two.survivor) as life:
            await _unlock_alone(life, two)
            async for one in life.recover_quorum(YES):
                said.append(one.step)
                if len(said) > step:
                    break
            await life._changes.background.stop()
        ended = place.given_up.exists() or said[-1] == "opening the store"
        if not ended and said[-1] not in NOT_YET:
            assert place.survivor.exists(), said
        step += 1
    assert step > 5
    async with living(two.survivor) as life:
        await _unlock(life, two)
        assert _kept(life) == b"kept"
        assert life.serving().store.incarnation.counter > two.before.counter
        assert {path.name for path in two.survivor.engine_dir.iterdir()} == {"member"}


async def test_nothing_is_recovered_without_consent_or_cause(tmp_path: Path) -> None:
    config = replace(_config(tmp_path, "m1"), etcd=None)
    async with living(config) as life:
        with pytest.raises(InvalidRequest):
            life.recover_quorum(RecoverRequest(data_may_be_lost=False))
        with pytest.raises(ClusterError):
            await life.lost_quorum()
        csr = make_csr(new_key())
        key = life.new_unlock_key()
        await life.init(InitRequest(key, "sqlite", "test.strongroom", "ada", csr))
        with pytest.raises(WrongEngine):
            await _recover(life)
        assert life.state is State.SERVING


# --- deciding ------------------------------------------------------------------------------------


def _recovery(base: Path, *others: str) -> Recovery:
    """Return a recovery whose new data are there, to be gone over to."""
    config = replace(_config(base, "m1"), etcd=None)
    contents = SealFileContents(
        root_key=SecretBytes(b"k" * 32), engine_ca_certificate=b"", engine_ca_key=SecretBytes(b""),
        tls_certificate_chain=b"", tls_key=SecretBytes(b""), manager_id="m1-id",
        trust_domain="test.strongroom", cluster_id="c1",
    )  # fmt: skip
    voters = (config.peer_address, *others)
    recovery = Recovery(config, contents, SystemClock(), SystemEntropy(), voters)
    for directory in (recovery.place.member, recovery.place.recovered):
        directory.mkdir(parents=True)
    return recovery


@asynccontextmanager
async def _answering(count: int) -> AsyncIterator[list[str]]:
    """Listen where that many members would."""
    ports = free_ports(count)
    servers = [await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", p) for p in ports]
    try:
        yield [f"127.0.0.1:{port}" for port in ports]
    finally:
        for server in servers:
            server.close()


async def test_a_majority_that_came_back_meanwhile_is_not_left_behind(tmp_path: Path) -> None:
    async with _answering(2) as others:
        recovery = _recovery(tmp_path, *others)
        with pytest.raises(Conflict, match="answers again"):
            await recovery._decide()
    assert recovery.place.member.exists()
    assert not recovery.place.given_up.exists()


async def test_one_that_came_back_alone_changes_nothing(tmp_path: Path) -> None:
    """The control: it and a survivor that is stopped are no majority."""
    (gone,) = free_ports(1)
    async with _answering(1) as others:
        recovery = _recovery(tmp_path, *others, f"127.0.0.1:{gone}")
        await recovery._decide()
    assert recovery.place.given_up.exists()


@pytest.mark.parametrize("state", list(ManagerState))
async def test_only_a_manager_that_stays_begins_a_new_life(
    tmp_path: Path, seed: int, state: ManagerState
) -> None:
    recovery = _recovery(tmp_path)
    record = ManagerRecord(
        id="m1-id", name="m1", state=state, api_address="a", join_address="j", peer_address="p",
        joined_at=0.0,
    )  # fmt: skip
    async with sqlite_lab(tmp_path, seed) as lab:
        store = await lab.open()
        await store.commit(Write((Create(record),)))
        if state in {ManagerState.PENDING, ManagerState.ACTIVE}:
            assert recovery._new_life(store.view, []).audit[0].action == "quorum.recover"
        else:
            with pytest.raises(Conflict, match="being removed"):
                recovery._new_life(store.view, [])
