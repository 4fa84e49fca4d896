"""Configs: read back by those who may, delivered as secrets are, and never mistaken for one."""

import asyncio
from base64 import b64decode
from collections.abc import Awaitable, Callable
from itertools import repeat
from pathlib import Path

import msgspec
import pytest

from cluster.control.audit_query import AuditFilter, AuditQuery
from cluster.control.events import EventFilter, Events
from cluster.control.policy import Principal
from cluster.control.secrets import MAX_VALUE_BYTES
from cluster.control.service_draft import ReferenceDraft
from cluster.protocol.errors import (
    AlreadyExists,
    ConfigInUse,
    ConfigNotFound,
    InvalidName,
    InvalidReference,
    InvalidRequest,
    PayloadTooLarge,
    PermissionDenied,
    SecretNotFound,
)
from cluster.protocol.ids import SecretId, VersionNumber
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.records import ConfigRecord
from cluster.store.view import Stored
from tests.unit.control.lab import ADMIN, AUDITOR, DEPLOYER, ControlLab, drafted

CANARY = b"canary-5d1c0a"
CONTENT = b"\x00listen 8080;\n\xff"
PLAIN = ReferenceDraft("plain", config=True)


async def create(lab: ControlLab, name: str, content: bytes = CONTENT, **labels: str) -> SecretId:
    answer = await lab.configs.create(lab.context(), name, labels, SecretBytes(content))
    return SecretId(str(answer.body["id"]))


def stored(lab: ControlLab, name: str) -> Stored[ConfigRecord]:
    found = lab.view.config_by_name(name)
    assert found is not None
    return found


async def content(lab: ControlLab, name: str, principal: Principal = ADMIN) -> bytes:
    return b64decode(str((await lab.configs.read(principal, name))["data"]))


async def test_content_is_read_back_as_it_was_stored(lab: ControlLab) -> None:
    config_id = await create(lab, "plain", team="red")
    shown = await lab.configs.read(ADMIN, "plain")
    assert b64decode(str(shown.pop("data"))) == CONTENT
    assert shown == lab.configs.inspect(AUDITOR, "plain")
    assert (shown["id"], shown["labels"], shown["size"]) == (config_id, {"team": "red"}, 15)
    assert shown["index"] == stored(lab, "plain").mod_revision
    assert shown["created_by"] == ADMIN.name
    assert shown["used_by"] == []
    assert [one["name"] for one in lab.configs.list(AUDITOR).entries] == ["plain"]


async def test_lists_and_inspections_hold_no_content(lab: ControlLab) -> None:
    await create(lab, "plain", CANARY)
    shown = (lab.configs.list(ADMIN).entries, lab.configs.inspect(ADMIN, "plain"))
    assert b"data" not in msgspec.json.encode(shown)


async def test_content_never_changes(lab: ControlLab) -> None:
    await create(lab, "plain")
    for name in ("plain", "PLAIN"):
        with pytest.raises(AlreadyExists, match="config"):
            await create(lab, name, b"other")
    assert await content(lab, "plain") == CONTENT


async def test_limits_are_those_of_secrets(lab: ControlLab) -> None:
    await create(lab, "large", bytes(MAX_VALUE_BYTES))
    with pytest.raises(PayloadTooLarge):
        await create(lab, "larger", bytes(MAX_VALUE_BYTES + 1))
    with pytest.raises(InvalidRequest, match="empty"):
        await create(lab, "empty", b"")
    with pytest.raises(InvalidName):
        await create(lab, "../etc")


async def test_labels_change_and_show_in_the_index(lab: ControlLab) -> None:
    await create(lab, "plain", team="red")
    before = lab.configs.inspect(ADMIN, "plain")
    await lab.configs.set_labels(lab.context(), "plain", {"tier": "web"}, ["team"])
    after = lab.configs.inspect(ADMIN, "plain")
    assert after["labels"] == {"tier": "web"}
    assert int(str(after["index"])) > int(str(before["index"]))
    assert [one["name"] for one in lab.configs.list(ADMIN, labels=["tier=web"]).entries] == [
        "plain"
    ]
    assert lab.configs.list(ADMIN, labels=["team"]).entries == []
    assert await content(lab, "plain") == CONTENT


async def test_removed_config_leaves_nothing_and_frees_its_name(lab: ControlLab) -> None:
    config_id = await create(lab, "plain")
    await lab.configs.remove(lab.context(), "plain")
    assert lab.view.secret_values.version(config_id, VersionNumber(1)) is None
    with pytest.raises(ConfigNotFound, match="config ls"):
        await lab.configs.read(ADMIN, "plain")
    with pytest.raises(ConfigNotFound):
        await lab.configs.remove(lab.context(), "plain")
    assert await create(lab, "plain", b"new") != config_id
    assert await content(lab, "plain") == b"new"


@pytest.mark.threat("T-01")
async def test_neither_content_nor_name_is_readable_where_it_is_stored(
    lab: ControlLab, tmp_path: Path
) -> None:
    await create(lab, "config-name-canary", CANARY, labels="label-canary")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    stored_bytes = b"".join(path.read_bytes() for path in files)
    assert len(stored_bytes) > len(CANARY)
    for canary in (CANARY, b"config-name-canary", b"label-canary"):
        assert canary not in stored_bytes


@pytest.mark.threat("T-53")
async def test_no_route_of_configs_reads_a_secret(lab: ControlLab) -> None:
    """By its name, its name in another case, or its id; also where a config has the name too."""
    await lab.secret("db", CANARY)
    secret = lab.view.secret_by_name("db")
    assert secret is not None
    for name in ("db", "DB", secret.record.id):
        with pytest.raises(ConfigNotFound):
            await lab.configs.read(ADMIN, name)
        with pytest.raises(ConfigNotFound):
            lab.configs.inspect(ADMIN, name)
        with pytest.raises(ConfigNotFound):
            await lab.configs.remove(lab.context(), name)
        with pytest.raises(ConfigNotFound):
            await lab.configs.set_labels(lab.context(), name, {"a": "b"}, [])
    assert lab.configs.list(ADMIN).entries == []
    await create(lab, "db", CONTENT)
    # The control: it is the config of that name, and it is read.
    assert await content(lab, "db") == CONTENT
    await lab.configs.remove(lab.context(), "db")
    assert lab.store.open_value(SecretId(secret.record.id), VersionNumber(1)).reveal() == CANARY


@pytest.mark.threat("T-53")
async def test_no_command_of_secrets_finds_a_config(lab: ControlLab) -> None:
    """A rotation would give it a second version, and its name to what may not be read back."""
    await create(lab, "plain")
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: lab.secrets.rotate(lab.context(), "plain", SecretBytes(b"x")),
        lambda: lab.secrets.set_labels(lab.context(), "plain", {"a": "b"}, []),
        lambda: lab.secrets.remove(lab.context(), "plain"),
        lambda: lab.versions.rollback(lab.context(), "plain"),
        lambda: lab.versions.prune(lab.context(), "plain", 0),
    ]
    for attempt in attempts:
        with pytest.raises(SecretNotFound):
            await attempt()
    for read in (lab.secrets.inspect, lab.versions.list, lab.exposure.where):
        with pytest.raises(SecretNotFound):
            read(ADMIN, "plain")
    assert lab.secrets.list(ADMIN).entries == []
    await lab.secret("plain", CANARY)
    await lab.secrets.remove(lab.context(), "plain")
    assert await content(lab, "plain") == CONTENT


@pytest.mark.threat("T-53")
async def test_reference_means_the_kind_it_names(lab: ControlLab) -> None:
    await lab.secret("db", CANARY)
    await create(lab, "plain")
    for reference, missing in (
        (ReferenceDraft("db", config=True), "there is no config 'db'"),
        (ReferenceDraft("plain"), "there is no secret 'plain'"),
    ):
        with pytest.raises(InvalidReference, match=missing):
            await lab.service("web", references=(reference,))
    both = (ReferenceDraft("db"), PLAIN)
    service = await lab.service("web", references=both)
    assert [one.config for one in service.record.spec.references] == [False, True]
    assert service.record.spec.references[1].secret_id == stored(lab, "plain").record.id


@pytest.mark.threat("T-53")
async def test_reading_is_for_admins_and_for_deployers_within_their_labels(
    lab: ControlLab,
) -> None:
    await create(lab, "mine", team="red")
    await create(lab, "theirs", team="blue")
    assert await content(lab, "mine", DEPLOYER) == CONTENT
    absent = set()
    for name in ("theirs", "none"):
        with pytest.raises(PermissionDenied) as refused:
            await lab.configs.read(DEPLOYER, name)
        absent.add(refused.value.message)
    assert len(absent) == 1
    with pytest.raises(PermissionDenied):
        await lab.configs.read(AUDITOR, "mine")
    assert [one["name"] for one in lab.configs.list(DEPLOYER).entries] == ["mine"]
    with pytest.raises(PermissionDenied):
        await lab.configs.set_labels(lab.context(DEPLOYER), "mine", {}, ["team"])
    theirs = (ReferenceDraft("theirs", config=True),)
    draft = drafted("web", references=theirs, labels={"team": "red"})
    with pytest.raises(InvalidReference):
        await lab.services.create(lab.context(DEPLOYER), draft)


async def test_deployer_does_not_take_over_a_service_with_a_config_of_others(
    lab: ControlLab,
) -> None:
    await create(lab, "plain", team="blue")
    labels = {"team": "red"}
    await lab.service("web", references=(PLAIN,), labels=labels)
    with pytest.raises(PermissionDenied, match="config"):
        await lab.services.update(lab.context(DEPLOYER), "web", drafted("web", labels=labels))


async def test_config_in_use_stays(lab: ControlLab) -> None:
    await create(lab, "plain")
    await lab.service("web", references=(PLAIN,))
    assert lab.configs.inspect(ADMIN, "plain")["used_by"] == ["web"]
    with pytest.raises(ConfigInUse, match="service 'web'"):
        await lab.configs.remove(lab.context(), "plain")
    await lab.services.update(lab.context(), "web", drafted("web"))
    with pytest.raises(ConfigInUse, match="previous spec of service 'web'"):
        await lab.configs.remove(lab.context(), "plain")
    await lab.services.rollback(lab.context(), "web")
    await lab.services.remove(lab.context(), "web")
    await lab.configs.remove(lab.context(), "plain")


async def test_removal_and_new_reference_cannot_both_win(
    lab: ControlLab, second: ControlLab
) -> None:
    """Both are decided from views that do not show the other."""
    for number in range(5):
        name = f"plain{number}"
        await create(lab, name)
        await second.view.wait_for(lab.view.revision, 30)
        references = (ReferenceDraft(name, config=True),)
        draft = drafted(f"web{number}", references=references)
        results = await asyncio.gather(
            lab.configs.remove(lab.context(), name),
            second.services.create(second.context(), draft),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Exception) for result in results) == 1


@pytest.mark.parametrize(
    ("reference", "wrong"),
    [
        (ReferenceDraft("plain", config=True, version=1), "one version"),
        (ReferenceDraft("plain", config=True, previous=True), "one version"),
        (ReferenceDraft("plain", config=True, target="db"), "share the target"),
        (ReferenceDraft("plain", config=True, target="tls.crt"), "certificate"),
        (ReferenceDraft("plain", config=True, target="/etc/nginx.conf"), "plain file names"),
        (ReferenceDraft("plain", config=True, target="{{.Node.ID}}"), "not templates"),
        (ReferenceDraft("plain", config=True, mode="0666"), "mode"),
    ],
)
async def test_bad_references_are_refused_with_the_reason(
    lab: ControlLab, reference: ReferenceDraft, wrong: str
) -> None:
    await lab.secret("db")
    await create(lab, "plain")
    with pytest.raises(InvalidReference, match=wrong):
        await lab.service("web", references=(ReferenceDraft("db"), reference), certificate=True)
    assert lab.view.service_by_name("web") is None


async def test_service_shows_what_kind_it_refers_to(lab: ControlLab) -> None:
    await lab.secret("db")
    await create(lab, "plain")
    await lab.service("web", references=(ReferenceDraft("db"), PLAIN))
    await lab.join("n1")
    await lab.settle(lab.duty())
    spec = lab.services.inspect(ADMIN, "web")["spec"]
    assert isinstance(spec, dict)
    assert [(one["source"], one["config"]) for one in spec["references"]] == [
        ("db", False), ("plain", True),
    ]  # fmt: skip
    (task,) = lab.services.tasks(ADMIN, "web")
    shown = msgspec.convert(task["references"], list[dict[str, object]])
    assert [(one["config"], one["version_desired"]) for one in shown] == [(False, 1), (True, 1)]


async def test_events_tell_of_configs_without_their_content(lab: ControlLab) -> None:
    events = Events(lab.requests)
    since = str(lab.store.revision(lab.view.revision))
    await create(lab, "mine", CANARY, team="red")
    await create(lab, "theirs", CANARY, team="blue")
    await lab.configs.remove(lab.context(), "mine")
    wanted = EventFilter.of(["config"], [], [])
    for principal, names in ((ADMIN, "mine theirs mine"), (DEPLOYER, "mine mine")):
        stream = await events.open(repeat(principal).__next__, wanted, since=since)
        lines = [line async for line in stream if "type" in line]
        assert [line["name"] for line in lines] == names.split()
        assert (lines[0]["action"], lines[-1]["action"]) == ("create", "remove")
        assert CANARY not in msgspec.json.encode(lines)


async def test_reading_is_on_record_and_so_is_a_refused_one(lab: ControlLab) -> None:
    await create(lab, "plain", CANARY)
    await content(lab, "plain")
    await content(lab, "plain")
    with pytest.raises(PermissionDenied):
        await lab.configs.read(AUDITOR, "plain")
    await lab.refusals.flush(lab.store)
    page = await AuditQuery(lab.requests).read(ADMIN, AuditFilter(action="config.read"))
    found = msgspec.convert(page["entries"], list[dict[str, object]])
    assert [(one["caller"], one["resource"], one["allowed"]) for one in found] == [
        (ADMIN.name, "config/plain", True),
        (ADMIN.name, "config/plain", True),
        (AUDITOR.name, "config/plain", False),
    ]
    assert CANARY.decode() not in repr(page)
