"""`strongroom init`: a new cluster with this machine's manager as its first.

The unlock key is safe with its owner before anything is founded on it: in a file, or on a terminal.
"""

import sys
from argparse import Namespace
from contextlib import nullcontext
from typing import Final

from cluster.cli import admin_socket
from cluster.cli.answers import Answer, text
from cluster.cli.arguments import Parser, add_admin_socket, duration
from cluster.cli.context_files import ContextFiles
from cluster.cli.credentials import ReservedFile, json_body, request_text, show_once
from cluster.cli.enrolment import keep, new_name
from cluster.cli.output import say, warn
from cluster.cli.settings import read_settings
from cluster.protocol.errors import ClusterError, Conflict, InvalidRequest
from cluster.protocol.secret_bytes import SecretBytes

_EPILOG = """\
The unlock key opens the managers' seal files after every start. It is made once and stored nowhere
in the cluster: keep it where the managers' disks are not.
"""

NODE_TTL_S: Final = 86_400.0
SHORT_NODE_TTL_S: Final = 3_600.0
SERVICE_TTL_S: Final = 3_600.0
SHORT_SERVICE_TTL_S: Final = 600.0


def add_commands(parser: Parser) -> None:
    """Add the flags of `strongroom init`."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--engine",
        choices=("sqlite", "etcd"),
        required=True,
        help="sqlite: one manager, nothing to install; etcd: several managers",
    )
    parser.add_argument(
        "--trust-domain",
        default="strongroom.internal",
        metavar="NAME",
        help="the name in every certificate (default: strongroom.internal)",
    )
    parser.add_argument(
        "--operator", default="admin", metavar="NAME", help="the first operator (default: admin)"
    )
    parser.add_argument(
        "--node-ttl",
        type=duration,
        default=NODE_TTL_S,
        metavar="TIME",
        help="how long a node's certificate lives; nodes renew it by themselves (default: 24h)",
    )
    parser.add_argument(
        "--service-ttl",
        type=duration,
        default=SERVICE_TTL_S,
        metavar="TIME",
        help="how long a service's certificate lives; agents renew it (default: 1h)",
    )
    parser.add_argument(
        "--unlock-key-file",
        metavar="FILE",
        help="write the unlock key to this new file (0600); without it, a terminal shows it",
    )
    parser.add_argument("--context", metavar="NAME", help="name of the context to write")
    add_admin_socket(parser)
    parser.set_defaults(run=_init)


def _init(args: Namespace) -> int:
    if args.unlock_key_file is None and not sys.stdout.isatty():
        raise InvalidRequest(
            "the unlock key is shown on a terminal only, and this is none; name a new file with "
            "--unlock-key-file"
        )
    if args.node_ttl < SHORT_NODE_TTL_S:
        warn(
            "with node certificates of less than an hour, nodes that miss their managers for that "
            "long fall back on proof of the old key"
        )
    if args.service_ttl < SHORT_SERVICE_TTL_S:
        warn(
            "with service certificates of less than ten minutes, services stop trusting each other "
            "soon after their agents miss the managers"
        )
    files = ContextFiles(read_settings())
    name = new_name(files, args.context)
    place = ReservedFile(args.unlock_key_file) if args.unlock_key_file else nullcontext()
    with place as file:
        _require_empty(args.admin_socket)
        unlock_key = _new_unlock_key(args.admin_socket)
        if file is not None:
            file.write(unlock_key)
        else:
            say("Unlock key, shown this once (keep it away from the managers' disks):")
            show_once(unlock_key)
    key_pem = files.pending_key(name)
    try:
        reply = _found(args, unlock_key, key_pem)
    except ClusterError:
        if args.unlock_key_file:
            warn(
                f"if no cluster was founded, the key in {args.unlock_key_file} opens nothing: see "
                "`strongroom status --admin-socket`, and remove it before you try again"
            )
        raise
    context = keep(files, name, reply, key_pem)
    say(f"cluster {text(reply, 'cluster_id')} ({context.trust_domain}) is up on {args.engine}")
    say(f"you are operator {context.operator} ({context.role}); context {context.name} is ready")
    if args.unlock_key_file:
        say(f"the unlock key is in {args.unlock_key_file}: move it away from this machine")
    return 0


def _require_empty(socket_path: str) -> None:
    """Raise Conflict before a key is made that nothing would be founded on."""
    state = admin_socket.call(socket_path, "GET", "/admin/status").get("state")
    if state != "empty":
        raise Conflict(
            f"this manager is {state}: it belongs to a cluster already; a new one needs an empty "
            "data directory"
        )


def _new_unlock_key(socket_path: str) -> SecretBytes:
    answer = admin_socket.call(socket_path, "POST", "/admin/unlock-key")
    return SecretBytes(text(answer, "unlock_key").encode())


def _found(args: Namespace, unlock_key: SecretBytes, key_pem: SecretBytes) -> Answer:
    fields = {
        "engine": args.engine,
        "trust_domain": args.trust_domain,
        "operator": args.operator,
        "node_ttl_s": args.node_ttl,
        "service_ttl_s": args.service_ttl,
        "csr": request_text(key_pem),
    }
    body = json_body(fields, unlock_key=unlock_key)
    return admin_socket.call(args.admin_socket, "POST", "/admin/init", body)
