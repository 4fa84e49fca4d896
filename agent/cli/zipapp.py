"""Builds what of `strongroom-agent` needs nothing but Python: `get`, `ls`, `exec`, `doctor`.

One file that any /usr/bin/python3 from 3.11 on runs, for applications and images without the
agent's dependencies:  python -m agent.cli.zipapp OUTPUT
"""

import shutil
import sys
import tempfile
import zipapp
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
MODULES = (
    "__init__.py",
    "launch.py",
    "linux.py",
    "local_call.py",
    "log_keeper.py",
    "log_ring.py",
    "mount_proof.py",
    "redaction.py",
    "seccomp.py",
    "cli/__init__.py",
    "cli/doctor.py",
    "cli/exec.py",
    "cli/exit_codes.py",
    "cli/get.py",
    "cli/ls.py",
    "cli/main.py",
    "cli/workload.py",
)
SHARED = ("__init__.py", "protocol/__init__.py", "protocol/checks.py", "system.py")
"""Of the package `cluster`: what both programs say alike."""


def build(target: Path) -> None:
    """Write the executable archive to `target`."""
    with tempfile.TemporaryDirectory() as directory:
        for module in MODULES:
            copy = Path(directory) / "agent" / module
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_PACKAGE / module, copy)
        for module in SHARED:
            copy = Path(directory) / "cluster" / module
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_PACKAGE.parent / "cluster" / module, copy)
        (Path(directory) / "__main__.py").write_text(
            "import sys\n\nfrom agent.cli.main import main\n\nsys.exit(main())\n"
        )
        zipapp.create_archive(directory, target, interpreter="/usr/bin/python3 -I")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
