"""The third party: an API somewhere else that takes credentials and can revoke them.

It issues credentials, and adopts those a customer brings, as such parties do. Its staff uses a unix
socket, which stands for the provider's console:
    third_party_api.py serve PORT SOCKET [HOST]
    third_party_api.py issue SOCKET FILE     a new credential, into a new file of mode 0600
    third_party_api.py revoke SOCKET NUMBER
    third_party_api.py usage SOCKET          calls accepted for each credential, and calls refused
    third_party_api.py hook SOCKET           one call of a rotation, as JSON on standard input
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
REQUEST_LIMIT = 4096


class Ledger:
    """The credentials, as digests, and how often each was used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: list[bytes] = []
        self._revoked: set[int] = set()
        self._accepted: list[int] = []
        self._refused = 0

    def issue(self) -> str:
        """Return a new credential; it is accepted from now on."""
        credential = secrets.token_urlsafe(30)
        with self._lock:
            self._digests.append(_digest(credential))
            self._accepted.append(0)
        return credential

    def revoke(self, number: int) -> None:
        """Refuse a credential from now on; they are counted from 1."""
        with self._lock:
            self._revoked.add(number)

    def adopt(self, credential: str) -> None:
        """Accept a credential that the customer made; doing it again changes nothing."""
        digest = _digest(credential)
        with self._lock:
            if digest not in self._digests:
                self._digests.append(digest)
                self._accepted.append(0)

    def drop(self, credential: str) -> None:
        """Refuse a credential from now on, whether it is known or not."""
        digest = _digest(credential)
        with self._lock:
            self._revoked |= {n for n, known in enumerate(self._digests, 1) if known == digest}

    def knows(self, credential: str) -> bool:
        """Return whether a credential is accepted, without counting a call."""
        digest = _digest(credential)
        with self._lock:
            numbers = {n for n, known in enumerate(self._digests, 1) if known == digest}
            return bool(numbers - self._revoked)

    def accepts(self, credential: str) -> bool:
        """Judge one call."""
        found = _digest(credential)
        with self._lock:
            for number, digest in enumerate(self._digests, 1):
                if hmac.compare_digest(found, digest) and number not in self._revoked:
                    self._accepted[number - 1] += 1
                    return True
            self._refused += 1
            return False

    def usage(self) -> dict[str, object]:
        """Return the counts."""
        with self._lock:
            return {"accepted": list(self._accepted), "refused": self._refused}


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode()).digest()


def serve(port: int, path: str, host: str = HOST) -> None:
    """Serve the API and the console until ended."""
    ledger = Ledger()

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kind, _, credential = self.headers.get("Authorization", "").partition(" ")
            accepted = kind == "Bearer" and ledger.accepts(credential)
            self.send_response(200 if accepted else 401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # its name
            """Log nothing: a person asks for the usage."""

    class Console(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = json.loads(self.rfile.readline(REQUEST_LIMIT))
            answer: dict[str, object] = {}
            if request["do"] == "issue":
                answer = {"credential": ledger.issue()}
            elif request["do"] == "revoke":
                ledger.revoke(int(request["number"]))
            elif request["do"] == "adopt":
                ledger.adopt(request["credential"])
            elif request["do"] == "drop":
                ledger.drop(request["credential"])
            elif request["do"] == "knows":
                answer = {"knows": ledger.knows(request["credential"])}
            answer |= ledger.usage()
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    with socketserver.ThreadingUnixStreamServer(path, Console) as console:
        threading.Thread(target=console.serve_forever, daemon=True).start()
        with ThreadingHTTPServer((host, port), Api) as api:
            api.serve_forever()


def ask(path: str, **request: object) -> dict[str, object]:
    """Return the console's answer."""
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(path)
        console.sendall(json.dumps(request).encode() + b"\n")
        with console.makefile("rb") as answer:
            found: dict[str, object] = json.loads(answer.readline())
            return found


def rotate(path: str, call: dict[str, Any]) -> bool:
    """Carry out one call of a rotation and return whether it is done; again is as good as once."""
    new, old = _credential(call), _credential(call["previous"])
    match call["action"]:
        case "prepare":
            ask(path, do="adopt", credential=new)
        case "confirm":
            return bool(ask(path, do="knows", credential=new)["knows"])
        case "retire":
            ask(path, do="drop", credential=old)
        case "rollback":
            ask(path, do="drop", credential=new)
        case _:
            return False
    return True


def _credential(version: dict[str, Any]) -> str:
    """Return a version's value; one that is not kept any more is nobody's credential."""
    return base64.b64decode(version["value"] or "").decode()


def _store(file: str, credential: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as new:
        new.write(credential)


def main(words: list[str]) -> None:
    """Run one of the commands."""
    match words:
        case ["serve", port, path, *host]:
            Path(path).unlink(missing_ok=True)
            serve(int(port), path, *host)
        case ["issue", path, file]:
            answer = ask(path, do="issue")
            _store(file, str(answer.pop("credential")))
            sys.stdout.write(f"{json.dumps(answer)}\n")
        case ["revoke", path, number]:
            sys.stdout.write(f"{json.dumps(ask(path, do='revoke', number=int(number)))}\n")
        case ["hook", path]:
            sys.exit(0 if rotate(path, json.load(sys.stdin)) else 1)
        case ["usage", path]:
            sys.stdout.write(f"{json.dumps(ask(path, do='usage'))}\n")
        case _:
            sys.exit(f"usage:\n{(__doc__ or '').partition(':')[2]}")


if __name__ == "__main__":
    main(sys.argv[1:])
