"""Secrets, services and nodes over their whole life, with real agents."""

import os
from collections.abc import Iterator

import pytest

from tests.support.running import RunningCluster, running_cluster, wait_until

LARGEST = 511_999


@pytest.fixture(scope="module")
def cluster() -> Iterator[RunningCluster]:
    """One manager on SQLite, two agents labelled by zone."""
    with running_cluster() as running:
        running.add_agent({"zone": "a"})
        running.add_agent({"zone": "b"})
        yield running


def _nodes_of(cluster: RunningCluster, service: str) -> set[str]:
    tasks = cluster.ok("GET", f"/v1/services/{service}/tasks")["tasks"]
    return {task["node"] for task in tasks}


def _holders(cluster: RunningCluster, service: str, target: str) -> set[str]:
    return {agent.name for agent in cluster.agents if agent.read(service, target) is not None}


def _update(cluster: RunningCluster, name: str, **change: object) -> None:
    service = cluster.ok("GET", f"/v1/services/{name}")
    spec = {k: v for k, v in service["spec"].items() if not (k == "replicas" and v is None)}
    body = {
        "spec": {"name": name, **spec, **change},
        "expected_spec_number": service["spec_number"],
    }
    cluster.wait_rollout(cluster.ok("PUT", f"/v1/services/{name}", body)["rollout"])


def test_draining_a_node_moves_its_tasks_and_takes_its_files(cluster: RunningCluster) -> None:
    """The other node gets the files, the drained one loses them, and gets none until it is active
    again."""
    cluster.create_secret("drained", b"value")
    cluster.create_service("drains", 21_001, "drained")
    (before,) = _holders(cluster, "drains", "drained")
    cluster.ok("PATCH", f"/v1/nodes/{before}", {"availability": "drain"})
    try:
        (after,) = {"n1", "n2"} - {before}
        wait_until(lambda: _holders(cluster, "drains", "drained") == {after}, "the task moved")
        assert _nodes_of(cluster, "drains") == {after}
        cluster.create_service("everywhere", 21_002, "drained", **{"global": True})
        assert _holders(cluster, "everywhere", "drained") == {after}
    finally:
        cluster.ok("PATCH", f"/v1/nodes/{before}", {"availability": "active"})
    wait_until(
        lambda: _holders(cluster, "everywhere", "drained") == {"n1", "n2"}, "the node is back"
    )
    assert _nodes_of(cluster, "drains") == {after}, "a task that may stay does not move"


def test_a_constraint_says_where_the_files_are(cluster: RunningCluster) -> None:
    """Only the labelled node gets the task; a label that goes takes the task with it."""
    cluster.create_secret("placed", b"value")
    cluster.create_service("zoned", 21_010, "placed", constraints=["node.labels.zone==b"])
    assert _holders(cluster, "zoned", "placed") == {"n2"}
    cluster.ok("PATCH", "/v1/nodes/n2", {"add_labels": {"zone": "c"}})
    wait_until(lambda: not _holders(cluster, "zoned", "placed"), "no node fits any more")
    cluster.ok("PATCH", "/v1/nodes/n2", {"add_labels": {"zone": "b"}})
    wait_until(lambda: _holders(cluster, "zoned", "placed") == {"n2"}, "the node fits again")


def test_update_and_rollback_change_the_files_in_place(cluster: RunningCluster) -> None:
    """An update adds and renames files; the rollback brings the first spec back."""
    cluster.create_secret("first", b"1")
    cluster.create_secret("second", b"2")
    cluster.create_service("changing", 21_020, "first", constraints=["node.name==n1"])
    agent = cluster.agents[0]
    references = [{"source": "first", "target": "one"}, {"source": "second"}]
    _update(cluster, "changing", references=references)
    found = {name: agent.read("changing", name) for name in ("one", "second", "first")}
    assert found == {"one": b"1", "second": b"2", "first": None}
    cluster.wait_rollout(cluster.ok("POST", "/v1/services/changing/rollback")["rollout"])
    assert agent.read("changing", "first") == b"1"
    assert agent.read("changing", "second") is None
    cluster.ok("DELETE", "/v1/services/changing")
    wait_until(lambda: not agent.mount("changing").exists(), "the mount is gone")


def test_rm_of_a_secret_is_refused_while_anything_refers_to_it(cluster: RunningCluster) -> None:
    """A current spec, then only the previous one; each refusal names the service."""
    for name in ("used", "other"):
        cluster.create_secret(name, b"value")
    cluster.create_service("user", 21_030, "used")
    refused = cluster.call("DELETE", "/v1/secrets/used")
    assert refused.status == 409
    assert "user" in refused.body["message"]
    _update(cluster, "user", references=[{"source": "other"}])
    refused = cluster.call("DELETE", "/v1/secrets/used")
    assert refused.status == 409, "the previous spec would be rolled back to"
    assert "user" in refused.body["message"]
    cluster.ok("DELETE", "/v1/services/user")
    wait_until(
        lambda: cluster.call("DELETE", "/v1/secrets/used").status == 200, "nothing refers to it"
    )


def test_names_that_differ_in_case_only_are_refused(cluster: RunningCluster) -> None:
    """`Password` beside `password` would be one file on some systems."""
    cluster.create_secret("cased", b"value")
    refused = cluster.call("POST", "/v1/secrets?name=Cased", b"value")
    assert (refused.status, refused.body["code"]) == (409, "already_exists")


def test_versions_are_numbered_and_can_be_pinned(cluster: RunningCluster) -> None:
    """A pinned reference keeps its version through rotations; numbers are not used again."""
    cluster.create_secret("numbered", b"v1")
    pinned = [{"source": "numbered", "target": "pin", "version": 1}, {"source": "numbered"}]
    draft = {"name": "pins", "uid": 21_040, "gid": 21_040, "references": pinned}
    cluster.wait_rollout(cluster.ok("POST", "/v1/services", draft)["rollout"])
    assert cluster.rotate("numbered", b"v2") == 2
    assert cluster.rotate("numbered", b"v3") == 3
    (holder,) = [agent for agent in cluster.agents if agent.read("pins", "pin")]
    assert holder.read("pins", "pin") == b"v1"
    assert holder.read("pins", "numbered") == b"v3"
    shown = cluster.ok("GET", "/v1/secrets/numbered")
    assert [v["number"] for v in shown["versions"]] == [1, 2, 3]
    states = {v["number"]: v["state"] for v in shown["versions"]}
    assert states[3] == "primary"
    assert set(states.values()) <= {"primary", "active", "retired"}
    assert "v3" not in str(shown)


def test_the_largest_value_arrives_and_one_more_byte_is_refused(cluster: RunningCluster) -> None:
    """511,999 B of every byte reach the file as they are; 512,000 B are refused, and so is
    nothing."""
    largest = os.urandom(LARGEST)
    cluster.create_secret("large", largest)
    cluster.create_service("reader", 21_050, "large")
    (holder,) = [agent for agent in cluster.agents if agent.read("reader", "large")]
    assert holder.read("reader", "large") == largest
    assert cluster.rotate("large", largest[::-1]) == 2
    assert holder.read("reader", "large") == largest[::-1]
    refused = cluster.call("POST", "/v1/secrets?name=larger", largest + b"!")
    assert (refused.status, refused.body["code"]) == (413, "payload_too_large")
    assert cluster.call("POST", "/v1/secrets?name=nothing", b"").status == 400


def test_files_have_the_owner_and_mode_asked_for(cluster: RunningCluster) -> None:
    """The service's uid and gid and 0440, unless the reference says otherwise."""
    cluster.create_secret("owned", b"value")
    references = [
        {"source": "owned"},
        {"source": "owned", "target": "mine", "uid": 21_061, "gid": 21_062, "mode": "0400"},
    ]
    draft = {
        "name": "owner", "uid": 21_060, "gid": 21_063, "references": references,
        "constraints": ["node.name==n1"],
    }  # fmt: skip
    cluster.wait_rollout(cluster.ok("POST", "/v1/services", draft)["rollout"])
    mount = cluster.agents[0].mount("owner")
    found = {name: (mount / name).stat() for name in ("owned", "mine")}
    facts = {name: (s.st_uid, s.st_gid, s.st_mode & 0o7777) for name, s in found.items()}
    assert facts == {"owned": (21_060, 21_063, 0o440), "mine": (21_061, 21_062, 0o400)}


def test_a_removed_node_is_cut_wipes_and_stays_out(cluster: RunningCluster) -> None:
    """`node rm`: the agent wipes what it holds at once; started again, it is told so and wipes what
    it finds."""
    agent = cluster.add_agent({"zone": "gone"})
    cluster.create_secret("evicted", b"value")
    cluster.create_service("leaving", 21_070, "evicted", constraints=["node.labels.zone==gone"])
    assert agent.read("leaving", "evicted") == b"value"
    cluster.ok("DELETE", f"/v1/nodes/{agent.name}")
    wait_until(lambda: agent.read("leaving", "evicted") is None, "the agent wiped")
    assert agent.name not in {n["name"] for n in cluster.ok("GET", "/v1/nodes")["nodes"]}
    agent.kill()
    agent.start()
    wait_until(lambda: "evicted" in agent.text(), "the agent is told why")
    assert agent.read("leaving", "evicted") is None
    agent.kill()


def test_a_node_removed_while_away_wipes_when_it_is_back(cluster: RunningCluster) -> None:
    """Nobody reaches a node that is off; at its next connect it is told `evicted` and wipes."""
    agent = cluster.add_agent({"zone": "away"})
    cluster.create_secret("left-behind", b"value")
    cluster.create_service("remote", 21_080, "left-behind", constraints=["node.labels.zone==away"])
    agent.kill()
    assert agent.read("remote", "left-behind") == b"value"
    cluster.ok("DELETE", f"/v1/nodes/{agent.name}")
    assert agent.read("remote", "left-behind") == b"value"
    agent.start()
    wait_until(lambda: agent.read("remote", "left-behind") is None, "the agent wiped")
    agent.kill()


@pytest.mark.slow
def test_the_tasks_of_a_node_that_is_down_move_after_patience(cluster: RunningCluster) -> None:
    """Its agent killed: at first nothing moves, for it may come back; then the other node serves.
    When it is back, it gives up what moved."""
    cluster.create_secret("moving", b"value")
    cluster.create_service("moves", 21_090, "moving")
    (before,) = [a for a in cluster.agents if a.running and a.read("moves", "moving")]
    before.kill()
    assert _nodes_of(cluster, "moves") == {before.name}
    wait_until(lambda: cluster.node(before.name)["state"] == "down", "the node is down")
    wait_until(
        lambda: before.name not in _nodes_of(cluster, "moves"), "its task moved", patience_s=120
    )
    (after,) = _nodes_of(cluster, "moves")
    (other,) = [agent for agent in cluster.agents if agent.name == after]
    wait_until(lambda: other.read("moves", "moving") == b"value", "the other node serves")
    before.start()
    wait_until(lambda: before.read("moves", "moving") is None, "the first one gave it up")
