"""What lies in a manager's data directory, and what may be done over it.

Owns the mark of a founding under way: while it exists, what an engine left here was never
acknowledged to anybody and may be removed; without it, nothing may. The seal file's content is
`cluster.seal.unlock`'s, the engine's data are the engine's.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.config import Config
from cluster.engine_start import has_engine_data
from cluster.protocol.errors import AlreadyExists

FOUNDING_MARK: Final = "founding"


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """The data directory of one manager. Blocking: run what writes in a thread."""

    config: Config

    @property
    def has_seal_file(self) -> bool:
        """Whether this manager was founded, joined, or began to join."""
        return self.config.seal_file.exists()

    def require_no_data(self) -> None:
        """Raise AlreadyExists if the data of a cluster lie here without their seal file."""
        if has_engine_data(self.config) and not self._mark.exists():
            raise AlreadyExists(
                "engine data lie here without a seal file; restore the seal file, or choose an "
                "empty data directory"
            )

    def remove_unfounded(self) -> None:
        """Remove what an interrupted founding left."""
        if self._mark.exists():
            if self.config.engine_dir.exists():
                shutil.rmtree(self.config.engine_dir)
            self._mark.unlink()

    def begin_founding(self) -> None:
        """Set the mark, over nothing but what an interrupted founding left."""
        self.remove_unfounded()
        self._mark.touch(mode=0o600)

    def end_founding(self) -> None:
        """Take the mark away, now that there is a seal file; once more does no harm.

        A mark that stayed would let a later founding remove a cluster whose seal file was lost.
        """
        self._mark.unlink(missing_ok=True)

    @property
    def _mark(self) -> Path:
        return self.config.data_dir / FOUNDING_MARK
