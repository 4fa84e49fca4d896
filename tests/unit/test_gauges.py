"""Metrics of a manager: what is counted, what is read off its state, and that no name is in it."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from cluster.api.refused import Refused
from cluster.duties import ALIVE_PREFIX, DUTY
from cluster.engine.measured import MeasuredEngine
from cluster.gauges import NODES, Behind, Gauges, Receipts, state_gauges
from cluster.metrics import Gauge, Metrics
from cluster.pki.ca import AUTHORITY_BACKDATE, INTERMEDIATE_LIFE, ROOT_LIFE
from cluster.protocol.errors import NoQuorum
from cluster.protocol.ids import ManagerId, SecretId, ServiceId, VersionNumber, is_id
from cluster.standing import State
from cluster.store.records import NodeState, ReceiptRecord, receipt_id
from cluster.system import Clock
from cluster.writability import Writability
from tests.support.stores import StoreLab, sqlite_lab
from tests.unit.control.lab import MANAGER, ControlLab


class MetricsLab:
    """A manager's store with an engine that is measured, and its metrics."""

    def __init__(self, control: ControlLab, metrics: Metrics, clock: Clock) -> None:
        self.control = control
        self.metrics = metrics
        self.presence = Presence()
        store = control.store
        writability = Writability(store.engine, store, ManagerId(MANAGER), clock, control.entropy)
        receipts = Receipts(store, ManagerId(MANAGER), metrics)
        receipts.follow()
        self.gauges = Gauges(
            store,
            store.engine,
            self.presence,  # type: ignore[arg-type]  # a port: who is connected
            control.refusals,
            writability,
            receipts,
            clock,
            lambda: clock.now().timestamp() + 86_400.0,
            lambda: 7,
        )

    async def read(self) -> dict[str, float]:
        """Return every sample, as a scraper reads it: `name` or `name{label,...}`."""
        text = self.metrics.render(await self.gauges.read()).decode()
        return {
            sample.name
            + ("{" + ",".join(sample.labels.values()) + "}" if sample.labels else ""): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def receipt(
        self, node: str, *, acked: float | None = None, by: str = MANAGER, service: str = "v"
    ) -> None:
        """Record a delivery, or its acknowledgement."""
        ids = SecretId("s"), VersionNumber(1), node, ServiceId(service)
        await self.control.write(
            ReceiptRecord(
                id=receipt_id(*ids),  # type: ignore[arg-type]  # a plain id
                secret_id=ids[0], version=ids[1], node_id=node, service_id=ids[3],  # type: ignore[arg-type]  # a plain id
                issued_at=self.control.clock.now().timestamp() if acked is None else acked - 0.2,
                issued_by=ManagerId(by), acked_at=acked, secret_name="canary-7f3a",
            )
        )  # fmt: skip


class Presence:
    """A port: sessions are tested with the dispatcher."""

    manager_id = ManagerId(MANAGER)

    def connected(self) -> int:
        return 3


@pytest.fixture
async def stores(tmp_path: Path, seed: int) -> AsyncIterator[StoreLab]:
    async with sqlite_lab(tmp_path, seed) as lab:
        yield lab


@pytest.fixture
async def lab(stores: StoreLab) -> MetricsLab:
    metrics = Metrics()
    engine = MeasuredEngine(stores.engine, metrics, stores.clock)
    control = ControlLab(stores, await stores.open("m1", engine=engine))
    await control.initialise()
    return MetricsLab(control, metrics, stores.clock)


async def test_readings_follow_the_state(lab: MetricsLab) -> None:
    await lab.control.secret("db")
    node_id = await lab.control.join("n1")
    gone = await lab.control.join("n2", ready=False)
    found = await lab.read()
    assert (found["strongroom_secrets"], found["strongroom_sessions"]) == (1, 3)
    assert found["strongroom_nodes{ready}"] == 1
    assert found["strongroom_nodes{unknown}"] == 1
    await lab.control.state(gone, NodeState.DOWN)
    await lab.control.state(node_id, NodeState.DOWN)
    found = await lab.read()
    assert found["strongroom_nodes{down}"] == 2
    assert found["strongroom_engine_up"] == 1
    assert found["strongroom_engine_has_leader"] == 1
    assert found["strongroom_certificate_seconds_left{manager}"] == 86_400.0
    assert "strongroom_certificate_seconds_left{node}" not in found


async def test_authority_that_ends_first_is_told(lab: MetricsLab) -> None:
    """The root lives twice as long as the two below it; one that signs no more does not count."""
    before = await lab.read()
    life_s = INTERMEDIATE_LIFE.total_seconds()
    left_s = before["strongroom_certificate_seconds_left{authority}"]
    assert life_s - 2 * AUTHORITY_BACKDATE.total_seconds() < left_s <= life_s
    for role in ("control", "workload"):
        held = lab.control.view.authorities.values()
        (record,) = [one.record for one in held if one.record.role == role]
        await lab.control.write(replace(record, active=False))
    left_s = (await lab.read())["strongroom_certificate_seconds_left{authority}"]
    assert left_s > ROOT_LIFE.total_seconds() - 2 * AUTHORITY_BACKDATE.total_seconds()


async def test_receipts_are_behind_until_they_are_acknowledged_or_the_node_is_evicted(
    lab: MetricsLab,
) -> None:
    node_id = await lab.control.join("n1")
    other = await lab.control.join("n2")
    await lab.receipt(node_id)
    await lab.receipt(other, by="m2")
    lab.control.clock.advance(5.0)
    found = await lab.read()
    assert found["strongroom_receipts_unacknowledged"] == 2
    assert found["strongroom_nodes_behind"] == 2
    assert found["strongroom_receipt_oldest_seconds"] == 5.0
    assert found["strongroom_deliveries_total"] == 1
    await lab.receipt(node_id, acked=lab.control.clock.now().timestamp())
    await lab.control.nodes.remove(lab.control.context(), "n2")
    found = await lab.read()
    assert found["strongroom_receipts_unacknowledged"] == 0
    assert found["strongroom_nodes_behind"] == 0
    assert found["strongroom_delivery_seconds_count"] == 1


async def test_nodes_behind_are_told_by_id_with_the_age_of_their_oldest(lab: MetricsLab) -> None:
    first, second = await lab.control.join("n1"), await lab.control.join("n2")
    done = await lab.control.join("n3")
    await lab.receipt(first)
    lab.control.clock.advance(5.0)
    await lab.receipt(first, service="w")
    await lab.receipt(second)
    await lab.receipt(done, acked=lab.control.clock.now().timestamp())
    lab.control.clock.advance(2.0)
    assert of_nodes(await lab.read()) == {
        f"strongroom_node_receipts_unacknowledged{{{first}}}": 2,
        f"strongroom_node_receipts_unacknowledged{{{second}}}": 1,
        f"strongroom_node_receipt_oldest_seconds{{{first}}}": 7.0,
        f"strongroom_node_receipt_oldest_seconds{{{second}}}": 2.0,
    }
    await lab.receipt(second, acked=lab.control.clock.now().timestamp())
    await lab.control.nodes.remove(lab.control.context(), "n1")
    assert of_nodes(await lab.read()) == {}


async def test_no_more_than_the_hundred_nodes_behind_longest_are_told(lab: MetricsLab) -> None:
    behind = [await lab.control.join(f"n{i}") for i in range(NODES + 3)]
    # Neither in the order of ids, nor those with most receipts: those that waited longest.
    behind.sort(reverse=True)
    for i, node_id in enumerate(behind):
        lab.control.clock.advance(1.0)
        for service in ("v", "w") if i >= NODES else ("v",):
            await lab.receipt(node_id, service=service)
    found = await lab.read()
    assert found["strongroom_nodes_behind"] == len(behind)
    assert found["strongroom_receipts_unacknowledged"] == len(behind) + 3
    assert set(of_nodes(found)) == {
        f"strongroom_node_{what}{{{node_id}}}"
        for what in ("receipts_unacknowledged", "receipt_oldest_seconds")
        for node_id in behind[:NODES]
    }


def of_nodes(found: dict[str, float]) -> dict[str, float]:
    """Return the samples that have a node for a label."""
    return {name: value for name, value in found.items() if name.startswith("strongroom_node_")}


async def test_receipts_that_were_there_before_are_behind_as_well(lab: MetricsLab) -> None:
    await lab.receipt(await lab.control.join("n1"))
    fresh = MetricsLab(lab.control, Metrics(), lab.control.clock)
    assert (await fresh.read())["strongroom_receipts_unacknowledged"] == 1


async def test_engine_is_counted_by_outcome(lab: MetricsLab) -> None:
    before = await lab.read()
    await lab.control.store.barrier()
    await lab.control.secret("db")
    found = await lab.read()
    for name in (
        "strongroom_engine_transaction_seconds_count{committed}",
        "strongroom_engine_barrier_seconds_count{done}",
    ):
        assert found[name] > before.get(name, 0.0), name


async def test_who_holds_the_duty_is_told_and_counts_the_audit(lab: MetricsLab) -> None:
    engine = lab.control.store.engine
    found = await lab.read()
    assert (found["strongroom_duty_holder"], found["strongroom_duty_held"]) == (0, 0)
    assert "strongroom_audit_links" not in found
    assert found["strongroom_managers{down}"] == 1
    await engine.campaign(DUTY, MANAGER, 60.0)
    await engine.campaign(f"{ALIVE_PREFIX}{MANAGER}", MANAGER, 60.0)
    found = await lab.read()
    assert (found["strongroom_duty_holder"], found["strongroom_audit_links"]) == (1, 7)
    assert (found["strongroom_managers{ready}"], found["strongroom_managers{down}"]) == (1, 0)


async def test_engine_that_does_not_answer_leaves_the_rest_readable(lab: MetricsLab) -> None:
    class Silent:
        """A port without a quorum."""

        async def status(self) -> Any:  # noqa: ANN401  # it returns nothing
            raise NoQuorum

    lab.gauges.engine = Silent()  # type: ignore[assignment]  # a port
    found = await lab.read()
    assert found["strongroom_engine_up"] == 0
    assert found["strongroom_sessions"] == 3
    assert "strongroom_engine_has_leader" not in found


@pytest.mark.threat("T-45")
async def test_no_name_and_no_value_is_in_the_metrics(lab: MetricsLab) -> None:
    """With one of everything that has a name; the counts show that the canaries are there."""
    await lab.control.secret("canary-7f3a-secret", b"canary-7f3a-value")
    await lab.control.service("canary-7f3a-service", "canary-7f3a-secret")
    node_id = await lab.control.join("canary-7f3a-node")
    await lab.receipt(node_id)
    lab.metrics.request("api", "GET", "/v1/secrets/{name}", 200, 0.1)
    lab.metrics.request("api", "canary-7f3a-method", "", 404, 0.1)
    text = lab.metrics.render(await lab.gauges.read()).decode()
    assert re.search(r"^strongroom_secrets 1\.0$", text, re.MULTILINE)
    assert re.search(r"^strongroom_receipts_unacknowledged 1\.0$", text, re.MULTILINE)
    assert "canary" not in text.lower()
    # The one thing that is told of by what it is: by its id, which is drawn and not chosen.
    labels = [
        sample.labels["node"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "node" in sample.labels
    ]
    assert set(labels) == {node_id}
    assert is_id(node_id)


@pytest.mark.control("T-45", without="cluster/gauges.py::Gauges")
async def test_node_that_is_behind_is_told_of_by_no_name(
    lab: MetricsLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the name in place of the random id, whoever scrapes reads what is sealed at rest."""
    node_id = await lab.control.join("canary-7f3a-node")
    await lab.receipt(node_id)

    async def scraped() -> str:
        return lab.metrics.render(await lab.gauges.read()).decode()

    told = await scraped()
    assert f'node="{node_id}"' in told
    assert "canary" not in told
    behind = Receipts.behind

    def by_name(self: Receipts) -> dict[str, Behind]:
        nodes = {stored.record.id: stored.record.name for stored in self.store.view.nodes.values()}
        return {nodes[node]: one for node, one in behind(self).items()}

    monkeypatch.setattr(Receipts, "behind", by_name)
    assert 'node="canary-7f3a-node"' in await scraped()


def test_state_is_told_beside_those_it_is_not() -> None:
    state, ready = state_gauges(State.LOCKED, ready=False)
    assert set(state.values) == {one.value for one in State}
    assert {name for name, value in state.values.items() if value} == {"locked"}
    assert ready == Gauge("strongroom_ready", ready.help, {"": 0.0})


def test_what_is_turned_away_is_counted_by_listener_and_reason() -> None:
    metrics = Metrics()
    refused = metrics.refusing("join", Refused)
    refused(Refused.RATE)
    refused(Refused.RATE)
    text = metrics.render().decode()
    assert 'strongroom_refused_total{listener="join",reason="rate"} 2.0' in text
    # Each is there before it happens, so that a rate over it sees the first.
    assert 'strongroom_refused_total{listener="join",reason="handshake"} 0.0' in text
    with pytest.raises(KeyError):
        refused("what a caller chose")
