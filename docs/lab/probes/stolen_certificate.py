"""What a thief of a node's key and certificate gets: asks a manager for a secret as that node.

    stolen_certificate.py NODE_DATA_DIRECTORY SERVICE SECRET

Prints the status and the number of bytes, never the bytes; exits 0 if the secret was given.
"""

import json
import sys
from base64 import b64encode
from pathlib import Path

from agent.identity import DataDirectory
from cluster.pki.node_envelope import NodeKeys
from cluster.pki.tls import client_context
from cluster.protocol.https_client import request

OK = 200


def main(data_directory: str, service: str, secret: str) -> int:
    """Ask once."""
    identity = DataDirectory(Path(data_directory)).fetch_identity()
    keys = NodeKeys.generate(identity.id.subject).public_keys()
    offered = [[key.suite, b64encode(key.public_key).decode()] for key in keys]
    wanted = {"service": service, "secret": secret, "envelope_keys": offered}
    answer = request(
        identity.managers,
        "POST",
        "/v1/issue",
        body=json.dumps(wanted).encode(),
        headers={"content-type": "application/json"},
        context=client_context(identity.bundle.control, identity.chain_pem, identity.key_pem),
        trust_domain=identity.id.trust_domain,
    )
    told = f"{len(answer.body)} bytes" if answer.status == OK else answer.body.decode()
    sys.stdout.write(f"{identity.name}: {answer.status} {told}\n")
    return 0 if answer.status == OK else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
