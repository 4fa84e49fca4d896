"""Today's manager starts on the data directory of every version that was released.

A directory is kept for ever once its version is released; `make_data_dir` makes the next one.
"""

import base64
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cluster.pki.csr import key_to_pem, make_csr, new_key
from cluster.protocol.ids import SecretId, VersionNumber
from cluster.store.records import VersionState
from cluster.store.start_check import read_tale
from tests.support.running import ManagerProcess, RunningCluster, credential_of, empty_cluster
from tests.vectors.make_data_dir import at_rest, counted

HERE = Path(__file__).parent
VERSIONS = sorted(path.stem for path in HERE.glob("data_dir_v*.json"))


def _known(version: str) -> dict[str, Any]:
    return dict(json.loads((HERE / f"{version}.json").read_text()))


def _unpack(version: str, data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700, exist_ok=True)
    with zipfile.ZipFile(HERE / f"{version}.bin") as packed:
        packed.extractall(data_dir)
    for path in data_dir.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def test_there_is_a_directory_of_the_first_version() -> None:
    assert VERSIONS[0] == "data_dir_v0_1_0"


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_record_and_value_opens(tmp_path: Path, version: str) -> None:
    known = _known(version)
    _unpack(version, tmp_path / "data")
    async with at_rest(tmp_path, known["unlock_key"]) as store:
        found = counted(store)
        assert {kind: found[kind] for kind in known["records"]} == known["records"]
        assert store.view.faults == ()
        assert (await read_tale(store)).wrong == []
        opened = {
            stored.record.name: [
                store.open_value(SecretId(stored.record.id), VersionNumber(one.number))
                .reveal()
                .hex()
                for one in stored.record.versions
            ]
            for stored in store.view.secrets.values()
        }
        assert opened == known["values"]


@pytest.mark.parametrize("version", VERSIONS)
def test_manager_starts_on_it_and_rotates(version: str) -> None:
    """It unlocks with the old key, gives its operator a certificate again, shows what it holds, and
    what is written on top is there after a restart."""
    known = _known(version)
    with empty_cluster() as cluster:
        base = cluster.base / "m1"
        base.mkdir()
        _unpack(version, base / "data")
        manager = cluster.add_manager()
        assert manager.state() == "locked"
        manager.unlock(known["unlock_key"])
        _be_operator(cluster, manager)
        found = {one["name"]: one for one in cluster.ok("GET", "/v1/secrets")["secrets"]}
        assert set(found) == set(known["values"])
        assert cluster.ok("POST", "/v1/secrets/db/versions", b"third")["version"] == 3
        manager.kill()
        manager.start()
        manager.unlock(known["unlock_key"])
        versions = cluster.ok("GET", "/v1/secrets/db")["versions"]
        states = {one["number"]: one["state"] for one in versions}
        assert states[3] == VersionState.PRIMARY.value
        audit = cluster.ok("GET", "/v1/audit/verification")
        assert audit["whole"], audit


def _be_operator(cluster: RunningCluster, manager: ManagerProcess) -> None:
    """Renew the founder's certificate as root of the machine: his key was not kept."""
    key = new_key()
    csr = base64.b64encode(make_csr(key)).decode()
    reply = manager.admin("POST", "/admin/operator-renew", {"name": "ada", "csr": csr})
    assert reply.status == 200, reply.body
    cluster.operator = credential_of(reply.body, key_to_pem(key))
