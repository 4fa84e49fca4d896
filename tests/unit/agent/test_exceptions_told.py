"""What an agent tells of an exception: never the local variables of what failed."""

import subprocess
import sys
from pathlib import Path

import pytest

# In the place of the agent, so that the log is the one that `run` sets up.
FAILING = """
import logging, sys
import structlog
import agent.main
from agent.cli.main import main
class Failing:
    def __init__(self, *_):
        held = "".join(["canary", "-77b0"])
        try:
            raise ValueError("it broke")
        except ValueError:
            structlog.get_logger().error("test.failed", exc_info=True)
            logging.getLogger("asyncio").exception("a library's")
        raise RuntimeError("it ends")
agent.main.Agent = Failing
{before}
sys.exit(main(["run", "--data-dir", sys.argv[1], "--run-dir", sys.argv[1]]))
"""
TELLING_ALL = "import rich.traceback; rich.traceback.install(show_locals=True)"


def said(directory: Path, before: str = "") -> str:
    command = [sys.executable, "-c", FAILING.format(before=before), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "test.failed" in done.stderr
    assert "RuntimeError" in done.stderr + done.stdout
    return done.stderr + done.stdout


@pytest.mark.threat("T-18")
def test_exception_of_the_agent_shows_no_local_variable(tmp_path: Path) -> None:
    """Logged by it, by a library, and uncaught; a hook that renders frames tells the value."""
    assert "canary-77b0" not in said(tmp_path)
    assert "canary-77b0" in said(tmp_path, TELLING_ALL)
