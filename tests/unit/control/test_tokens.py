"""Join tokens: what spends them."""

import pytest

from cluster.control.tokens import spend
from cluster.protocol.errors import InvalidRequest, NotFound, TokenRefused
from cluster.store.records import JoinTokenRecord, TokenRole
from tests.unit.control.lab import AUDITOR, ControlLab


def _token(**fields: object) -> JoinTokenRecord:
    defaults: dict[str, object] = {"uses_left": 1, "expires_at": 100.0, **fields}
    return JoinTokenRecord(
        id="t", role=TokenRole.WORKER, digest=b"", created_at=0.0, created_by="a", **defaults  # type: ignore[arg-type]  # fields of a record
    )  # fmt: skip


@pytest.mark.threat("T-11")
@pytest.mark.parametrize(
    ("fields", "name", "address", "admitted"),
    [
        ({}, "n1", "192.0.2.1", True),
        ({"uses_left": 0}, "n1", "192.0.2.1", False),
        ({"expires_at": 50.0}, "n1", "192.0.2.1", False),
        ({"expires_at": 50.1}, "n1", "192.0.2.1", True),
        ({"name": "n1"}, "n1", "192.0.2.1", True),
        ({"name": "n1"}, "n2", "192.0.2.1", False),
        ({"networks": ("192.0.2.0/24",)}, "n1", "192.0.2.1", True),
        ({"networks": ("192.0.2.0/24",)}, "n1", "::ffff:192.0.2.1", True),
        ({"networks": ("192.0.2.0/24",)}, "n1", "198.51.100.1", False),
        ({"networks": ("2001:db8::/32",)}, "n1", "192.0.2.1", False),
        ({"networks": ("192.0.2.0/24",)}, "n1", "unknown", False),
    ],
)
def test_token_admits_within_its_bounds_only(
    fields: dict[str, object], name: str, address: str, admitted: bool
) -> None:
    if admitted:
        assert spend(_token(**fields), 50.0, name, address).uses_left == 0
        return
    with pytest.raises(TokenRefused):
        spend(_token(**fields), 50.0, name, address)


async def test_networks_are_checked_when_the_token_is_made(lab: ControlLab) -> None:
    for networks in (["10.0.0.1/8"], ["somewhere"], ["10.0.0.0/8"] * 17):
        with pytest.raises(InvalidRequest):
            await lab.token(networks=networks)
    await lab.token(networks=["10.0.0.0/8", "2001:db8::/32"])


async def test_removed_and_spent_tokens_are_not_listed(lab: ControlLab) -> None:
    token = await lab.token(uses=2)
    await lab.join("n1")
    assert [listed["id"] for listed in lab.tokens.list(AUDITOR)] == [token.token_id]
    await lab.tokens.remove(lab.context(), token.token_id)
    assert lab.tokens.list(AUDITOR) == []
    with pytest.raises(NotFound):
        await lab.tokens.remove(lab.context(), token.token_id)
