"""Controls of what a service printed: without the decision, and without the net, it is told."""

from pathlib import Path

import pytest

from agent import service_logs as agent_logs
from cluster.control import requests
from cluster.control import service_logs as control_logs
from cluster.protocol.errors import PermissionDenied
from tests.adversarial.controls.test_rights import allow
from tests.unit.agent.test_service_logs import keeper, line, running, said
from tests.unit.control.lab import AUDITOR, ControlLab
from tests.unit.control.test_service_logs import Stage, read, texts


@pytest.mark.control("T-54", without="cluster/control/policy.py::authorize")
async def test_an_auditor_reads_no_output(lab: ControlLab, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(lab)
    await stage.set_up()
    with pytest.raises(PermissionDenied):
        await read(stage, principal=AUDITOR)
    monkeypatch.setattr(requests, "authorize", allow)
    monkeypatch.setattr(control_logs, "authorize", allow)
    assert texts(await read(stage, principal=AUDITOR)) == ["said on n2", "said on n1"]


@pytest.mark.control("T-54", without="agent/redaction.py::redacted")
async def test_a_value_does_not_leave_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as node:
        with keeper(node.logs_dir / "1.sock", line(node.now() - 1, "it is hunter22")):
            assert said(await node.ask()) == ["it is [redacted]"]
            monkeypatch.setattr(agent_logs, "redacted", lambda text, _patterns: text)
            assert said(await node.ask()) == ["it is hunter22"]
