"""Twitter: a service that calls a third party's API with its credential, again and again.

It opens the file for every call, so a rotation needs nothing of it: no signal, no restart. While
there is no file it makes no call.

    twitter.py FILE URL [--once]
"""

import argparse
import http.client
import sys
import time
import urllib.parse
from pathlib import Path

PERIOD_S = 0.1
TIMEOUT_S = 5.0


def call(url: str, credential: bytes) -> int:
    """Return the status the API answers with."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=TIMEOUT_S)
    try:
        bearer = credential.decode("ascii").strip()
        connection.request("POST", "/messages", headers={"Authorization": f"Bearer {bearer}"})
        return connection.getresponse().status
    finally:
        connection.close()


def call_if_possible(url: str, file: Path) -> int:
    """Return the status the API answers with, or 0 while there is no credential."""
    try:
        credential = file.read_bytes()
    except FileNotFoundError:
        return 0
    return call(url, credential)


def main() -> int:
    """Call until ended, or once; print the status whenever it changes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("url")
    parser.add_argument("--once", action="store_true")
    arguments = parser.parse_args()
    before = None
    while True:
        status = call_if_possible(arguments.url, arguments.file)
        if status != before:
            told = f"the API answers {status}" if status else "there is no credential"
            sys.stdout.write(f"twitter: {told}\n")
            sys.stdout.flush()
        if arguments.once:
            return 0 if 0 < status < http.client.BAD_REQUEST else 1
        before = status
        time.sleep(PERIOD_S)


if __name__ == "__main__":
    sys.exit(main())
