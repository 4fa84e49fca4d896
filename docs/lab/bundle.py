"""`bundle`: one file with all that the lab needs, for a classroom without a network.

Packs the committed state, the locked wheels for this platform, the unpacked etcd, and container
images that were saved to build/images. Downloads through pip alone; changes nothing in the checkout
but the file it writes below build/.
"""

import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from docs.lab.shell import LabError

WHEELS = ".wheels"
"""Where tools/setup_venv.sh looks before it asks an index."""
IMAGES = "build/images"
GUIDE = "OFFLINE.md"
RAFTOS_LOCK = "docs/lab/raftos/requirements.lock"
RAFTOS_OPTIONS = ("--require-hashes", "--no-deps", "--no-build-isolation")
"""Without what it depends on, which no Python of today can install; built with what is here."""
_LOCK = "requirements-dev.lock"
_TIMEOUT_S = 900.0
_GUIDE = """\
# Strongroom's lab without a network

Packed from commit {commit} for {system} with Python {python}. Every machine needs this Python with
its modules venv and ensurepip (Debian: `apt-get install python3-venv`), make, util-linux; the parts
about isolation need root's rights. Nothing is fetched: the packages are in `.wheels/`, etcd is in
`.tools/`{images}.

    tar -xf {archive}
    cd {name}
    make lab ARGS=--list
    make lab

`make lab ARGS=reset` cleans up after a lab that was killed. The pages are in `docs/tutorial/`.
"""


def run(repository: Path, output: Path | None) -> int:
    """Write the bundle and return an exit code; raise LabError if something it needs is missing."""
    commit = _git(repository, "rev-parse", "--short=12", "HEAD")
    if _git(repository, "status", "--porcelain", "--untracked-files=no"):
        sys.stderr.write("lab: changes that are not committed stay out of the bundle\n")
    tools = repository / ".tools"
    if not list(tools.glob("etcd-*/usr/bin/etcd")):
        raise LabError("etcd is not unpacked here; run `make tools`")
    name = f"strongroom-{commit}-py{_python()}-{platform.machine()}"
    archive = (output or repository / "build" / f"{name}.tar").resolve()
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / name
        root.mkdir()
        _unpack_commit(repository, root)
        _fetch_wheels(root)
        shutil.copytree(tools, root / ".tools", symlinks=True)
        images = _copy_images(repository, root)
        guide = _GUIDE.format(
            commit=commit,
            system=f"{platform.system()} on {platform.machine()}",
            python=_python(),
            images=f", container images are in `{IMAGES}/`" if images else "",
            archive=archive.name,
            name=name,
        )
        (root / GUIDE).write_text(guide)
        with tarfile.open(archive, "w") as bundle:
            bundle.add(root, arcname=name, filter=_nobodys)
    sys.stdout.write(f"{archive}: {archive.stat().st_size / 1e6:.0f} MB; see {GUIDE} in it\n")
    return 0


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _git(repository: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise LabError("git is not installed; a bundle is packed from a commit") from None
    if done.returncode:
        raise LabError(f"this is no git checkout, and a bundle is one: {done.stderr.strip()}")
    return done.stdout.strip()


def _unpack_commit(repository: Path, root: Path) -> None:
    archive = root / "commit.tar"
    _git(repository, "archive", "--format=tar", f"--output={archive}", "HEAD")
    with tarfile.open(archive) as packed:
        packed.extractall(root, filter="data")
    archive.unlink()


def _fetch_wheels(root: Path) -> None:
    only_wheels = ("--require-hashes", "--only-binary=:all:")
    for lock, options in ((_LOCK, only_wheels), (RAFTOS_LOCK, RAFTOS_OPTIONS)):
        _download(root, lock, options)


def _download(root: Path, lock: str, options: tuple[str, ...]) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    words = [*options, "--requirement", str(root / lock), "--dest", str(root / WHEELS)]
    done = subprocess.run(
        [*pip, *words],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise LabError(f"pip cannot fetch what {lock} names: {done.stderr.strip()[-500:]}")


def _copy_images(repository: Path, root: Path) -> bool:
    found = sorted((repository / IMAGES).glob("*.tar"))
    for image in found:
        (root / IMAGES).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, root / IMAGES / image.name)
    return bool(found)


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a member without the packer's name and ids."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
