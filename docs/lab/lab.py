"""The guided lab: `make lab`, or `python docs/lab/lab.py [--scenario NAME]`.

Only finds the checkout; `docs.lab.command_line` understands the words.
"""

import sys
from pathlib import Path

# In place of this directory, whose modules would stand in the way of others of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[2])

from docs.lab.command_line import main  # noqa: E402  # needs the path above

if __name__ == "__main__":
    sys.exit(main())
