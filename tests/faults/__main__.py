"""`python -m tests.faults`: one seeded run of faults against a cluster, judged at its end.

Exit 0: everything held. Exit 1: something did not, and the seed, the replay command, the smallest
history and the ends of the logs are printed.
"""

import sys

from tests.faults.options import parse

if __name__ == "__main__":
    options = parse(sys.argv[1:])
    from tests.faults.runner import run

    sys.exit(run(options))
