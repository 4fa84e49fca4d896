"""Policy, for all principals, actions and resources."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from cluster.control.policy import Action, Principal, Resource, Role, authorize, in_reach
from cluster.protocol.errors import PermissionDenied
from cluster.protocol.identity import Kind, SpiffeId

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), max_size=3)
PRINCIPALS = st.builds(
    lambda role, labels, subject: Principal(
        SpiffeId("lab.example", Kind.OPERATOR, subject), subject, role, labels
    ),
    st.sampled_from(Role),
    LABELS,
    st.sampled_from(["one", "two"]),
)
RESOURCES = st.builds(
    Resource, st.just("thing"), st.just("x"), LABELS, st.sampled_from(["", "one", "two"])
)


def _allowed(principal: Principal, action: Action, resource: Resource) -> bool:
    try:
        return authorize(principal, action, resource, NOW).allowed
    except PermissionDenied:
        return False


@given(PRINCIPALS, st.sampled_from(Action), RESOURCES)
def test_deployers_change_only_what_carries_all_their_labels(
    principal: Principal, action: Action, resource: Resource
) -> None:
    if principal.role is not Role.DEPLOYER or not _allowed(principal, action, resource):
        return
    if action in {
        Action.SECRET_LIST, Action.CONFIG_LIST, Action.SERVICE_LIST, Action.ROLLOUT_LIST,
        Action.STATUS_READ, Action.EVENT_LIST,
    }:  # fmt: skip
        return
    if action is Action.OPERATOR_RENEW:
        assert principal.identity is not None
        assert resource.owner == principal.identity.subject
        return
    assert principal.labels.items() <= resource.labels.items()


@given(PRINCIPALS, st.sampled_from(Action), RESOURCES, LABELS)
def test_more_labels_on_an_object_never_take_a_right_away(
    principal: Principal, action: Action, resource: Resource, more: dict[str, str]
) -> None:
    labelled = Resource(resource.kind, resource.name, {**more, **resource.labels}, resource.owner)
    if _allowed(principal, action, resource):
        assert _allowed(principal, action, labelled)


@given(PRINCIPALS, st.sampled_from(Action), RESOURCES)
def test_admins_may_what_other_operators_may(
    principal: Principal, action: Action, resource: Resource
) -> None:
    if principal.role not in {Role.DEPLOYER, Role.AUDITOR}:
        return
    admin = Principal(principal.identity, principal.name, Role.ADMIN)
    if _allowed(principal, action, resource):
        assert _allowed(admin, action, resource)


@given(PRINCIPALS, LABELS)
def test_only_operators_are_shown_objects(principal: Principal, labels: dict[str, str]) -> None:
    shown = in_reach(principal, labels)
    if principal.role is Role.DEPLOYER:
        assert shown is (principal.labels.items() <= labels.items())
    else:
        assert shown is (principal.role in {Role.ADMIN, Role.AUDITOR})
