"""Blue: a service that reads its secret once and again when it gets SIGHUP.

    blue.py FILE

So do programs that hold a connection open: the agent sends the signal after it swapped the file.
It prints sizes, never values.
"""

import signal
import sys
from pathlib import Path


def read_password(file: Path, reason: str) -> bytes:
    """Return the password and say why it was read."""
    value = file.read_bytes()
    sys.stdout.write(f"blue: password of {len(value)} bytes read: {reason}\n")
    sys.stdout.flush()
    return value


def main(file: Path) -> None:
    """Keep the password in memory until ended."""
    # Blocked before the first read: a change in between stays pending instead of being lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    password = read_password(file, "start")
    while True:
        signal.sigwait({signal.SIGHUP})
        before, password = password, read_password(file, "SIGHUP")
        sys.stdout.write(f"blue: it {'changed' if password != before else 'stayed'}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
