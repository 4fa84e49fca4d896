"""What a thief of a node's key and certificate gets: talks to a manager as that node.

    stolen_certificate.py NODE_DATA_DIRECTORY issue SERVICE SECRET
    stolen_certificate.py NODE_DATA_DIRECTORY get PATH

Prints the status, and of a secret the number of bytes, never the bytes; exits 0 if the manager gave
what was asked for, and 1 if it refused or cut the connection.
"""

import json
import sys
from base64 import b64encode
from pathlib import Path

from agent.identity import AgentIdentity, DataDirectory
from cluster.pki.node_envelope import ISSUE, NodeKeys, staged
from cluster.pki.tls import client_context
from cluster.protocol import wire
from cluster.protocol.errors import ClusterError
from cluster.protocol.https_client import Response, request

OK = 200


def call(identity: AgentIdentity, method: str, path: str, body: bytes = b"") -> Response:
    """Return a manager's answer to the thief."""
    return request(
        identity.managers,
        method,
        path,
        body=body,
        headers={"content-type": "application/json"},
        context=client_context(identity.bundle.control, identity.chain_pem, identity.key_pem),
        trust_domain=identity.id.trust_domain,
    )


def ask_for_secret(identity: AgentIdentity, service: str, secret: str) -> tuple[int, str]:
    """Return the status and what it came to; the thief brings envelope keys of his own making."""
    keys = NodeKeys.generate(identity.id.subject)
    offered = [[key.suite, b64encode(key.public_key).decode()] for key in keys.public_keys()]
    wanted = {"service": service, "secret": secret, "envelope_keys": offered}
    answer = call(identity, "POST", "/v1/issue", json.dumps(wanted).encode())
    if answer.status != OK:
        return answer.status, answer.body.decode()
    message = wire.decode_from_manager(answer.body)
    assert isinstance(message, wire.Values)
    (sealed,) = staged(message, answer.headers["strongroom-envelope"], ISSUE).values()
    with keys.opening() as open_value:
        return OK, f"{len(open_value(sealed))} bytes"


def main(words: list[str]) -> int:
    """Ask once."""
    identity = DataDirectory(Path(words[0])).fetch_identity()
    try:
        match words[1:]:
            case ["issue", service, secret]:
                status, told = ask_for_secret(identity, service, secret)
            case ["get", path]:
                answer = call(identity, "GET", path)
                status, told = answer.status, answer.body.decode()
            case _:
                sys.exit(__doc__)
    except ClusterError as error:
        sys.stdout.write(f"{identity.name}: {error}\n")
        return 1
    sys.stdout.write(f"{identity.name}: {status} {told}\n")
    return 0 if status == OK else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
