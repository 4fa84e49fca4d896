"""A data directory that is put back to an earlier copy, against a signed checkpoint."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from tests.support.running import empty_cluster


@pytest.mark.slow
@pytest.mark.threat("T-55")
def test_data_directory_that_was_put_back_is_found(tmp_path: Path) -> None:
    """Everything in it is of one moment, so the cluster itself finds nothing wrong."""
    with empty_cluster() as cluster:
        manager = cluster.add_manager()
        admin = CommandLine(cluster.base / "admin")
        key_file = admin.home / "unlock.key"
        admin.ok(
            "init", "--engine", "sqlite", "--trust-domain", "kept.test",
            "--unlock-key-file", str(key_file), "--admin-socket", str(manager.admin_socket),
        )  # fmt: skip
        data, unlock_key = manager.base / "data", key_file.read_text().strip()
        admin.ok("secret", "create", "one", "-", stdin=b"1")
        manager.stop()
        shutil.copytree(data, tmp_path / "earlier")
        manager.start()
        manager.unlock(unlock_key)

        admin.ok("audit", "checkpoint", "--output", "kept.json")
        admin.ok("secret", "create", "two", "-", stdin=b"2")
        assert admin.json("audit", "verify", "--checkpoint", "kept.json")["whole"]
        admin.ok("audit", "export", "audit.jsonl")
        exported = [
            json.loads(line) for line in (admin.home / "audit.jsonl").read_text().splitlines()
        ]
        last = json.loads(
            admin.ok("audit", "verify", "--offline", "--checkpoint", "audit.jsonl.checkpoint",
                     "--format", "json")
        )  # fmt: skip
        stated = {head["chain"]: head["last_link"] for head in last["chains"]}
        assert all(entry["link"] <= stated[entry["chain"]] for entry in exported)

        manager.stop()
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "earlier", data)
        manager.start()
        manager.unlock(unlock_key)
        seen = admin.home / "strongroom" / "seen"
        assert json.loads(admin.run(
            "audit", "verify", "--checkpoint", "kept.json", "--format", "json"
        ).stdout)["whole"] is False  # fmt: skip
        said = admin.run("audit", "verify", "--checkpoint", "kept.json")
        assert said.code == 1, said
        assert "which the signed checkpoint states" in said.stdout
        # The control: without the file, and for somebody who saw nothing of it, all is whole.
        shutil.rmtree(seen)
        assert admin.json("audit", "verify")["whole"]
