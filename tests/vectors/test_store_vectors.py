"""Stored bytes of every format of the store, kept for ever.

A file named `*_v1.json` is never regenerated: when a format changes, a new file joins it.
"""

import json
from pathlib import Path

import pytest

from cluster.protocol.errors import AuditChainBroken
from cluster.protocol.secret_bytes import SecretBytes
from cluster.store.audit_export import ExportReader

HERE = Path(__file__).parent


def test_audit_exports_of_format_1_open(tmp_path: Path) -> None:
    vector = json.loads((HERE / "audit_export_v1.json").read_text())
    path = tmp_path / "export.links"
    path.write_bytes(bytes.fromhex(vector["file"]))
    reader = ExportReader(path, SecretBytes(bytes.fromhex(vector["root_key"])))
    links = list(reader.links())
    assert [link.entries[0].resource for link in links] == vector["resources"]
    assert reader.checkpoint is not None
    assert reader.checkpoint.revision == vector["revision"]
    assert [head.digest.hex() for head in reader.checkpoint.heads] == [vector["digest_of_last"]]


def test_audit_exports_open_under_their_own_root_key_alone(tmp_path: Path) -> None:
    vector = json.loads((HERE / "audit_export_v1.json").read_text())
    path = tmp_path / "export.links"
    path.write_bytes(bytes.fromhex(vector["file"]))
    with pytest.raises(AuditChainBroken):
        list(ExportReader(path, SecretBytes(bytes(32))).links())
