"""Measures when a file got a new value, while the command that changes it runs."""

import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from docs.lab.stage import Lab, Service

_PERIOD_S = 0.01


class FileWatch:
    """Looks at a service's file, from its agent's view, for as long as the block lasts."""

    def __init__(self, lab: Lab, service: Service, wanted: bytes) -> None:
        self.seen_at: float | None = None
        """When the file held `wanted`, on the steady clock."""
        self._path: Path | None = None
        if service.node in lab.processes:
            root = Path(f"/proc/{lab.processes[service.node].popen.pid}/root")
            self._path = root / str(lab.mount_of(service) / service.target).lstrip("/")
        self._wanted = wanted
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while self._path is not None and not self._over.wait(_PERIOD_S):
            with suppress(OSError):
                if self._path.read_bytes() == self._wanted:
                    self.seen_at = time.monotonic()
                    return
