"""A number below zero where a period or a count is asked for: refused, whichever field it is in.

In etcd a negative retention went through to what computes with it, and stopped the server.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import get_args

import msgspec
import pytest

from cluster.control.service_draft import OnChangeDraft, ReferenceDraft, ServiceDraft
from cluster.control.update_draft import HealthDraft, UpdateDraft
from cluster.control.version_terms import VersionTerms
from cluster.protocol.errors import InvalidRequest
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import TokenRole
from tests.unit.control.lab import ControlLab, drafted

pytestmark = pytest.mark.threat("T-16")

PLAIN: dict[type[msgspec.Struct], dict[str, object]] = {
    OnChangeDraft: {"signal": "HUP"},
    HealthDraft: {"process": True},
    ReferenceDraft: {"source": "db", "on_lease_loss": "wipe"},
    ServiceDraft: {"name": "web", "uid": 20_003, "gid": 20_003},
}
"""What each needs to be taken: the control is the draft without the number."""


def numbers(draft: type[msgspec.Struct]) -> Iterator[str]:
    """Yield the names of the fields that take a number."""
    for field in msgspec.structs.fields(draft):
        if {int, float} & {field.type, *get_args(field.type)}:
            yield field.name


def cases() -> list[tuple[type[msgspec.Struct], str]]:
    drafts = (OnChangeDraft, HealthDraft, UpdateDraft, ReferenceDraft, ServiceDraft, VersionTerms)
    return [(draft, name) for draft in drafts for name in numbers(draft)]


def test_fields_are_found() -> None:
    found = {f"{draft.__name__}.{name}" for draft, name in cases()}
    assert {"UpdateDraft.delay_s", "ServiceDraft.replicas", "VersionTerms.overlap_s"} <= found
    assert len(found) > 20


async def take(lab: ControlLab, draft: type[msgspec.Struct], **fields: object) -> None:
    """Ask for what a draft says, as the API does."""
    plain = msgspec.convert({**PLAIN.get(draft, {}), **fields}, draft, strict=True)
    context = lab.context()
    match plain:
        case VersionTerms():
            await lab.secrets.rotate(context, "db", SecretBytes(b"2"), terms=plain)
        case ServiceDraft():
            await lab.services.create(context, plain)
        case ReferenceDraft():
            await lab.services.create(context, drafted("web", references=(plain,)))
        case HealthDraft():
            await lab.services.create(context, drafted("web", "db", health=plain))
        case UpdateDraft():
            await lab.services.create(context, drafted("web", "db", update=plain))
        case _:
            await lab.services.create(context, drafted("web", "db", on_change=plain))


@pytest.mark.parametrize(("draft", "name"), cases())
async def test_number_below_zero_is_refused(
    lab: ControlLab, draft: type[msgspec.Struct], name: str
) -> None:
    await lab.secret("db")
    with pytest.raises(InvalidRequest):
        await take(lab, draft, **{name: -1})
    await take(lab, draft)


@pytest.mark.parametrize("fields", [{"ttl": timedelta(seconds=-1)}, {"uses": -1}])
async def test_token_of_less_than_nothing_is_not_made(
    lab: ControlLab, fields: dict[str, timedelta | int]
) -> None:
    given = {"ttl": timedelta(hours=1), "uses": 1}
    with pytest.raises(InvalidRequest):
        await lab.tokens.create(lab.context(), TokenRole.WORKER, **{**given, **fields})  # type: ignore[arg-type]  # one of each
    await lab.tokens.create(lab.context(), TokenRole.WORKER, **given)  # type: ignore[arg-type]  # one of each
