"""Builds what of `strongroom-agent` needs nothing but Python: `get`, `ls`, `exec`, `doctor`.

One file that any /usr/bin/python3 from 3.11 on runs, for applications and images without the
agent's dependencies:  python -m agent.cli.zipapp OUTPUT [PYTHON]

An image whose Python lies elsewhere names it: the archive starts with it.

It starts without `site`, which it needs nothing of, and carries bytecode of the Python that builds
it beside the source: another minor version takes the source. The bytecode is not compared with the
source, which nobody can change but who can change both.
"""

import py_compile
import shutil
import sys
import tempfile
import zipapp
from pathlib import Path

PYTHON = "/usr/bin/python3"
"""Of a Debian or a relative; without `env`, which would look for it in the caller's PATH."""
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
    "cli/printing.py",
    "cli/socket_flag.py",
    "cli/verbs.py",
    "cli/workload.py",
)
SHARED = ("__init__.py", "protocol/__init__.py", "protocol/checks.py", "system.py")
"""Of the package `cluster`: what both programs say alike."""


def build(target: Path, python: str = PYTHON) -> None:
    """Write the archive, which `python` (its path where it is run) starts, to `target`."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for module in MODULES:
            _add(_PACKAGE / module, directory, f"agent/{module}")
        for module in SHARED:
            _add(_PACKAGE.parent / "cluster" / module, directory, f"cluster/{module}")
        (directory / "__main__.py").write_text(
            "import sys\n\nfrom agent.cli.main import main\n\nsys.exit(main())\n"
        )
        _compile(directory, "__main__.py")
        zipapp.create_archive(directory, target, interpreter=f"{python} -IS")


def _add(source: Path, directory: Path, path: str) -> None:
    copy = directory / path
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, copy)
    _compile(directory, path)


def _compile(directory: Path, path: str) -> None:
    """Put bytecode beside the source: a command that starts from source is half as fast."""
    py_compile.compile(
        str(directory / path),
        cfile=str((directory / path).with_suffix(".pyc")),
        dfile=path,
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


if __name__ == "__main__":
    build(Path(sys.argv[1]), *sys.argv[2:3])
