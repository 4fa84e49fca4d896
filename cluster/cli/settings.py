"""Where the command keeps what it knows: the one reader of the environment in the command line."""

import os
from collections.abc import Mapping
from pathlib import Path

DIRECTORY = "strongroom"


class Settings:
    """What the environment says."""

    __slots__ = ("context", "directory")

    def __init__(self, directory: Path, context: str | None) -> None:
        self.directory = directory
        """Holds contexts; made with mode 0700."""
        self.context = context
        """The context that STRONGROOM_CONTEXT names."""


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings; a relative XDG_CONFIG_HOME is ignored, as its specification demands."""
    configured = environment.get("XDG_CONFIG_HOME", "")
    if configured.startswith("/"):
        base = Path(configured)
    else:
        base = Path(environment.get("HOME") or "~").expanduser() / ".config"
    return Settings(base / DIRECTORY, environment.get("STRONGROOM_CONTEXT") or None)
