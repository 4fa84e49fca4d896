"""The planner against a naive model of a node that carries its actions out."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.assignments import Mount, Plan, Publish, Remove, plan
from cluster.protocol.wire import FileSpec, ServiceAssignment

files = st.builds(
    lambda secret, version, target: FileSpec(
        target, secret, secret, version, None, None, 0o440, wipe_on_lease_loss=False
    ),
    st.sampled_from(["s1", "s2"]),
    st.integers(1, 3),
    st.sampled_from(["one", "two", "../up", "..data", ""]),
)
services = st.builds(
    ServiceAssignment,
    service_id=st.sampled_from(["A", "B", "C"]),
    name=st.sampled_from(["red", "blue", "green", "../x"]),
    uid=st.sampled_from([1000, 1001, 1002, -1]),
    gid=st.just(1000),
    spec_number=st.integers(1, 2),
    files=st.lists(files, max_size=3).map(tuple),
)
sets = st.lists(services, max_size=4, unique_by=lambda s: s.service_id)


def carry_out(node: dict[str, ServiceAssignment], made: Plan) -> dict[str, ServiceAssignment]:
    """A node that refuses what the kernel or the file system would refuse."""
    node = dict(node)
    for action in made.actions:
        service = action.service
        match action:
            case Remove():
                assert node.pop(service.service_id) == service
            case Publish():
                old = node[service.service_id]
                assert (old.name, old.uid) == (service.name, service.uid)
                node[service.service_id] = service
            case Mount():
                assert service.service_id not in node
                assert service.name not in {s.name for s in node.values()}
                node[service.service_id] = service
    return node


@given(st.lists(sets, min_size=1, max_size=5), st.booleans())
def test_assignments_match_naive_model(
    history: list[list[ServiceAssignment]], share_uid: bool
) -> None:
    node: dict[str, ServiceAssignment] = {}
    for desired in history:
        before, made = node, plan(desired, node, share_uid=share_uid)
        node = carry_out(node, made)

        wanted = {s.service_id: s for s in desired}
        for service_id, service in wanted.items():
            expected = before.get(service_id) if service_id in made.refused else service
            assert node.get(service_id) == expected
        assert node.keys() <= wanted.keys()
        assert len({s.name for s in node.values()}) == len(node)
        for service in node.values():
            targets = [f.target for f in service.files]
            assert len(set(targets)) == len(targets)
            assert set(targets) <= {"one", "two"}
        if not share_uid:
            assert len({s.uid for s in node.values()}) == len(node)
        assert plan(desired, node, share_uid=share_uid).actions == ()


@given(services)
def test_only_files_tell_a_service(service: ServiceAssignment) -> None:
    clean = msgspec.structs.replace(service, name="red", uid=1000, files=())
    later = msgspec.structs.replace(clean, spec_number=9)
    assert plan([later], {clean.service_id: clean}, share_uid=False).actions == (
        Publish(later, changed=False),
    )
