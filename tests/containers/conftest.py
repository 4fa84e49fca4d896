"""The lab in containers, brought up once: `make test-containers` starts an engine for it.

Elsewhere nothing here is collected: an engine is not a thing that a test starts by the way.
"""

import os
from pathlib import Path

import pytest

from docs.lab.compose.driver import ContainerLab, make_lab
from docs.lab.compose.story import play
from docs.lab.narrator import Narrator

REPOSITORY = Path(__file__).resolve().parents[2]
ONE_OF_EACH = ("m1", "bootstrap", "node1", "third-party")
"""Services that have all images among them."""
ENGINE_ROOT = os.environ.get("STRONGROOM_ENGINE_ROOT", "")

collect_ignore_glob = [] if ENGINE_ROOT else ["test_*.py"]


@pytest.fixture(scope="session")
def lab() -> ContainerLab:
    """Return the lab after its story: every part runs, three secrets are in place."""
    disk = Path(ENGINE_ROOT) / "var" / "lib" / "docker"
    made = make_lab(REPOSITORY, disk, Path(os.environ["STRONGROOM_MEMORY"]), Narrator())
    made.engine.build(*ONE_OF_EACH)
    play(made)
    made.narrator.summary()
    # Nothing is taken down: the engine ends with all that is in it.
    return made
