"""`strongroom status`: managers, leader, engine, agents, and what is unhealthy or weak."""

from argparse import Namespace

from cluster.cli import answers
from cluster.cli.arguments import DEFAULT_ADMIN_SOCKET, Parser, add_connection
from cluster.cli.output import ExitCode, cell, print_json, print_table, say

_HEADINGS = ("NAME", "STATE", "LEADER", "API ADDRESS", "JOIN ADDRESS")


def add_commands(parser: Parser) -> None:
    """Add the flags of `strongroom status`."""
    parser.add_argument(
        "--admin-socket",
        metavar="PATH",
        nargs="?",
        const=DEFAULT_ADMIN_SOCKET,
        help="ask this machine's manager, locked or not, instead of the cluster",
    )
    add_connection(parser)
    parser.set_defaults(run=_status)


def _status(args: Namespace) -> int:
    if args.admin_socket is not None:
        from cluster.cli import admin_socket

        status = admin_socket.call(args.admin_socket, "GET", "/admin/status")
    else:
        status = _ask_cluster(args)
    if args.format == "json":
        print_json(status)
    elif args.quiet:
        say(cell(status.get("state") or status.get("lock")))
    elif args.admin_socket is not None:
        _print_local(status)
    else:
        _print(status)
    return ExitCode.DONE


def _ask_cluster(args: Namespace) -> answers.Answer:
    from cluster.cli.connection import connect

    connection = connect(args)
    status = connection.get("/v1/status")
    connection.remember_managers(
        [
            str(manager["api_address"])
            for manager in answers.rows(status, "managers")
            if manager.get("api_address") and manager.get("state") != "joining"
        ]
    )
    return status


def _print_local(status: answers.Answer) -> None:
    """Print what one manager knows of itself, then of the cluster if it serves."""
    state, reason = cell(status.get("state")), status.get("reason")
    say(f"manager      {cell(status.get('name'))}")
    say(f"state        {state}{f' ({reason})' if reason else ''}")
    if status.get("step"):
        say(f"step         {status['step']}")
    if status.get("unlocks_by_itself"):
        say("weak: it unlocks by itself; whoever reads its key file opens its seal file")
    if state == "locked":
        say("run `strongroom unlock` on it")
    if isinstance(status.get("cluster"), dict):
        _print(answers.nested(status, "cluster"))


def _print(status: answers.Answer) -> None:
    engine = status.get("engine")
    kind = f"{engine.get('kind')} {engine.get('version')}" if isinstance(engine, dict) else "-"
    nodes = status.get("nodes")
    say(f"cluster      {cell(status.get('cluster_id'))} ({cell(status.get('trust_domain'))})")
    say(f"engine       {kind}")
    say(f"leader       {cell(status.get('leader'))}")
    say(f"key epoch    {cell(status.get('key_epoch'))}")
    say(f"nodes        {_counts(nodes)}")
    say(f"secrets      {cell(status.get('secrets'))}")
    say(f"services     {cell(status.get('services'))}")
    say("")
    print_table(
        _HEADINGS,
        [
            [
                cell(manager.get(key))
                for key in ("name", "state", "leader", "api_address", "join_address")
            ]
            for manager in answers.rows(status, "managers")
        ],
    )
    findings = answers.rows(status, "findings")
    say("")
    for finding in findings:
        say(f"{cell(finding.get('level'))}: {cell(finding.get('why'))}")
    if not findings:
        say("nothing is unhealthy or weak")


def _counts(nodes: object) -> str:
    if not isinstance(nodes, dict):
        return cell(nodes)
    return ", ".join(f"{number} {state}" for state, number in nodes.items())
