"""What a service is answered about its own files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import AgentConfig
from agent.mount_table import MountTable
from agent.service_desk import ServiceDesk
from cluster.pki.node_envelope import EnvelopeSuite, NodeKeys, Recipient, staged
from cluster.protocol.errors import PermissionDenied
from cluster.protocol.secret_bytes import SecretBytes
from cluster.protocol.wire import FileSpec, ServiceAssignment, VersionKey
from cluster.system import SystemEntropy
from tests.support.mounts import mounts_taken_away

pytestmark = pytest.mark.needs_root

KEYS = NodeKeys.generate("node1", (EnvelopeSuite.X25519,))
FILES = (
    FileSpec("a-config", "c1", "app", 1, None, None, 0o440, wipe_on_lease_loss=False, config=True),
    FileSpec("plain", "c2", "motd", 1, None, None, 0o440, wipe_on_lease_loss=False, config=True),
    FileSpec("z-secret", "s1", "app", 1, None, None, 0o440, wipe_on_lease_loss=False),
)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[ServiceDesk]:
    """Service red with a secret and a config of one name, mounted."""
    with mounts_taken_away(tmp_path / "run"):
        config = AgentConfig(data_dir=tmp_path / "data", run_dir=tmp_path / "run")
        table = MountTable(config)
        recipient = Recipient.choose(KEYS.public_keys(), "node1", "s")
        values = [(VersionKey(f.secret_id, 1), SecretBytes(f.target.encode())) for f in FILES]
        sealed = staged(recipient.seal(values, SystemEntropy()), EnvelopeSuite.X25519, "s")
        (result,) = table.apply(
            [ServiceAssignment("id-red", "red", 61_001, 61_001, 1, FILES)], sealed, KEYS
        ).results
        assert result.error == ""
        yield ServiceDesk(config, table, lambda _file: True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # Where a secret and a config have the name, it is the secret's.
        ("app", b"z-secret"),
        ("a-config", b"a-config"),
        ("z-secret", b"z-secret"),
        ("motd", b"plain"),
        ("plain", b"plain"),
    ],
)
def test_files_are_answered_by_target_and_by_name(
    desk: ServiceDesk, name: str, value: bytes
) -> None:
    assert desk.get("red", name).reveal() == value


def test_whatever_is_not_there_is_not_permitted(desk: ServiceDesk) -> None:
    for service, name in (("red", "none"), ("blue", "app")):
        with pytest.raises(PermissionDenied):
            desk.get(service, name)


def test_who_runs_a_service_is_told_which_one_it_is(desk: ServiceDesk) -> None:
    """By its id: another service may have had the name before."""
    found = desk.describe("red", "/w")
    assert found is not None
    assert (found.service, found.service_id) == ("red", "id-red")
    assert desk.describe("blue", "/w") is None
