"""What a recovery from a lost quorum leaves on the disk, and what each state of it means.

    in the engine's directory         means
    member                            no recovery, or one that ended
    member, survivor, recovered       one under way: the next start wipes the last two
    given-up, recovered               decided: the next start puts `recovered` in place of `member`
    given-up, member                  the same, and only the old data are still to be removed

`survivor` is a copy of the member's data, to be read once; `recovered` is the new engine's. The
rename of `member` to `given-up` is the one moment at which the store moves; everything after it is
`settle`'s, in the same process or at the next start. Blocking: run it in a thread. Source: ADR
0015.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from cluster.config import Config
from cluster.engine.sqlite_disk import sync_directory
from cluster.engine_start import MEMBER_DIR, SQLITE_FILE
from cluster.protocol.errors import Conflict, Unavailable

log = structlog.get_logger(__name__)

_BLOCK: Final = 512
_MIB: Final = 1024**2
COPIES: Final = 2
"""Beside the data themselves: the copy that is read, and what is written from it."""


@dataclass(frozen=True, slots=True)
class RecoveryDirectory:
    """The engine's directory of one manager, as a recovery sees it."""

    config: Config

    @property
    def member(self) -> Path:
        """The data that the manager's engine runs on."""
        return self.config.engine_dir / MEMBER_DIR

    @property
    def survivor(self) -> Path:
        """A copy of them, to be read once."""
        return self.config.engine_dir / "survivor"

    @property
    def recovered(self) -> Path:
        """The data that are to take their place."""
        return self.config.engine_dir / "recovered"

    @property
    def given_up(self) -> Path:
        """The data whose place was taken."""
        return self.config.engine_dir / "given-up"

    def require_space(self) -> None:
        """Raise Conflict where the disk is too small for the copies."""
        needed = COPIES * sum(path.lstat().st_blocks * _BLOCK for path in self.member.rglob("*"))
        free = shutil.disk_usage(self.config.engine_dir).free
        if free < needed:
            raise Conflict(
                f"the recovery copies the engine's data, which takes {needed // _MIB} MiB in "
                f"{self.config.engine_dir}, and {free // _MIB} MiB are free; make room first"
            )

    def begin(self) -> None:
        """Copy the member's data, which nobody may write to meanwhile."""
        self.settle()
        shutil.copytree(self.member, self.survivor)

    def decide(self) -> None:
        """Give the member's data up for the recovered ones; on return that is durable.

        A crash leaves either the one or the other. The caller has stopped both engines.
        """
        _flush_tree(self.recovered)
        sync_directory(self.config.engine_dir)
        self.member.rename(self.given_up)
        sync_directory(self.config.engine_dir)

    def settle(self) -> None:
        """Bring the directory to what the last recovery decided; once more does no harm.

        Raises Unavailable where what is left over cannot be removed: it would be in the way of the
        next step, and holds sealed records that nobody looks after.
        """
        if not self.config.engine_dir.is_dir():
            return
        _remove(self.survivor)
        if self.member.exists() and self.recovered.exists():
            log.warning("quorum.recovery_wiped")
            _remove(self.recovered)
        elif self.given_up.exists() and self.recovered.exists():
            self.recovered.rename(self.member)
            sync_directory(self.config.engine_dir)
        if self.member.exists() and self.given_up.exists():
            self._forget()

    def _forget(self) -> None:
        """Remove what is older than the recovered data; the mark of it, `given-up`, goes last.

        What a migration left of SQLite names the engine that it moved to, which this is not.
        """
        for path in self.config.engine_dir.glob(f"{SQLITE_FILE}*"):
            path.unlink()
        sync_directory(self.config.engine_dir)
        # Under another name first: what is half removed must not be taken for anything.
        rubbish = self.survivor
        self.given_up.rename(rubbish)
        _remove(rubbish)


def _remove(top: Path) -> None:
    if not top.exists():
        return
    try:
        shutil.rmtree(top)
    except OSError as error:
        raise Unavailable(
            f"{top} is left of a recovery and cannot be removed: {error.strerror}; "
            "remove it, then try again"
        ) from None


def _flush_tree(top: Path) -> None:
    """Make every file and every name under `top` durable."""
    for place, _directories, files in os.walk(top):
        for name in files:
            handle = os.open(Path(place) / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_directory(Path(place))
