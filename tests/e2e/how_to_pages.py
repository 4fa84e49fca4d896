"""The commands that the pages of docs/how-to have their readers type."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ROOT / "docs" / "how-to"
FIRST: Final = "first-cluster"

MACHINE_ONLY: Final = {
    "python3 -m venv": "tools/test_wheel.sh",
    "/opt/strongroom/bin/pip": "tools/test_wheel.sh",
    "ln -s": "tests/e2e/test_systemd.py",
    "apt-get install": "tools/test_fresh.sh",
    "systemctl": "tests/e2e/test_systemd.py",
    "systemd-sysusers": "tests/e2e/test_systemd.py",
    "install -": "tests/e2e/test_systemd.py",
}
"""Commands that set up the machine itself, and what does the same where it may be changed."""
ELSEWHERE: Final = {
    ("lost-quorum", "strongroom"): "tests/e2e/test_lost_quorum.py",
    ("read-the-audit", "strongroom audit archives"): "tests/e2e/test_audit_trim.py",
    ("read-the-audit", "strongroom audit export old.jsonl"): "tests/e2e/test_audit_trim.py",
    ("spiffe-workload-api", "strongroom-agent spiffe --files"): "tests/unit/agent/spiffe",
    ("configs", ""): "tests/e2e/test_command_line.py",
    ("service-logs", "strongroom"): "tests/e2e/test_service_logs.py",
    ("systemd", "strongroom-agent join"): "tests/e2e/test_systemd.py",
}
"""Commands (page, how they begin) that need a state of their own, and the test that types them."""


def commands_of(page: str) -> list[str]:
    """Return the commands that a page has its reader type, continued lines joined."""
    text = (PAGES / f"{page}.md").read_text()
    found = []
    for kind, block in re.findall(r"^```(console|sh)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        joined = re.sub(r"\\\n\s*", "", block)
        prompt = r"^[#$] (.*)$" if kind == "console" else r"^(.+)$"
        found += re.findall(prompt, joined, re.MULTILINE)
    return [command.strip() for command in found]


def typed_elsewhere(page: str, command: str) -> str:
    """Return what runs a command in another place, or ""."""
    for start, place in MACHINE_ONLY.items():
        if command.startswith(start):
            return place
    for (where, start), place in ELSEWHERE.items():
        if where == page and command.startswith(start):
            return place
    return ""
