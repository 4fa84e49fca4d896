"""`python -m tests.scale`: many agents, secrets and services under churn, judged at the end."""

import sys

from tests.scale.options import parse

if __name__ == "__main__":
    options = parse(sys.argv[1:])
    from tests.scale.runner import run

    sys.exit(run(options))
