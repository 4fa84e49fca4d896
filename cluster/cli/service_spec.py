"""From flags to a service's spec, and from a spec and flags to the next one. Pure.

Says only what was asked for; what a manager defaults or refuses is the manager's business.
"""

from argparse import BooleanOptionalAction, Namespace
from collections.abc import Mapping

from cluster.cli.answers import Answer, nested, rows, texts
from cluster.cli.arguments import Parser, add_labels, count, duration, user_id
from cluster.cli.references import (
    add_reference_changes,
    add_reference_flags,
    changed_references,
    given_references,
)
from cluster.cli.update_flags import (
    add_health_flags,
    add_policy_flags,
    given_health,
    given_update,
)
from cluster.protocol.errors import InvalidRequest


def add_spec_flags(parser: Parser) -> None:
    """Add the flags of `service create` and `service update`."""
    add_reference_flags(parser)
    parser.add_argument(
        "--constraint",
        action="append",
        metavar="EXPR",
        help="where tasks may run: node.labels.KEY==VALUE, node.name!=NAME; repeatable, all hold",
    )
    parser.add_argument(
        "--placement-pref",
        action="append",
        metavar="spread=node.labels.KEY",
        help="spread new tasks evenly over a label's values; repeatable, the next one within each",
    )
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("--replicas", type=count, metavar="N", help="tasks, each on its own node")
    how_many.add_argument(
        "--global", dest="is_global", action="store_true", help="one task on every node that fits"
    )
    parser.add_argument("--uid", type=user_id, metavar="N", help="the service's uid on the nodes")
    parser.add_argument("--gid", type=user_id, metavar="N", help="the service's gid")
    add_labels(parser)
    parser.add_argument(
        "--certificate",
        action=BooleanOptionalAction,
        help="give the service a certificate of its own: tls.crt, tls.key and ca.crt among its "
        "files, renewed by the agent",
    )
    parser.add_argument(
        "--logs",
        action=BooleanOptionalAction,
        help="keep the last lines it prints under `strongroom-agent exec` in its node's memory, "
        "for `service logs`",
    )
    on_change = parser.add_mutually_exclusive_group()
    on_change.add_argument(
        "--on-change-signal", metavar="NAME", help="signal sent after a swap: HUP, USR1, ..."
    )
    on_change.add_argument(
        "--on-change-command",
        action="append",
        metavar="WORD",
        help="program run after a swap, as the service; repeat the flag for each argument",
    )
    parser.add_argument(
        "--on-change-timeout", type=duration, metavar="TIME", help="how long it may take"
    )
    add_policy_flags(parser, "update-")


def add_change_flags(parser: Parser) -> None:
    """Add the flags that change the present spec instead of replacing a part of it."""
    add_reference_changes(parser)
    parser.add_argument("--constraint-add", action="append", default=[], metavar="EXPR")
    parser.add_argument("--constraint-rm", action="append", default=[], metavar="EXPR")
    for flag in ("--placement-pref-add", "--placement-pref-rm"):
        parser.add_argument(flag, action="append", default=[], metavar="spread=node.labels.KEY")
    add_labels(parser, "--label-add")
    parser.add_argument("--label-rm", action="append", default=[], metavar="KEY")
    parser.add_argument(
        "--on-change-rm", action="store_true", help="do nothing any more after a swap"
    )
    add_health_flags(parser, change=True)


def draft_of(args: Namespace) -> Answer:
    """Return the draft of a new service."""
    return {"name": args.name, **_given(args, {})}


def changed_spec(name: str, spec: Answer, args: Namespace) -> Answer:
    """Return a draft: the present spec with what the flags replace, then add, then remove."""
    draft = {**spec, **_given(args, spec)}
    draft["references"] = changed_references(rows(draft, "references"), args)
    kept = [text for text in texts(draft, "constraints") if text not in args.constraint_rm]
    draft["constraints"] = [*dict.fromkeys((*kept, *args.constraint_add))]
    if args.placement_pref_add or args.placement_pref_rm:
        present = texts(draft, "placement_prefs") if "placement_prefs" in draft else ()
        kept = [text for text in present if text not in args.placement_pref_rm]
        draft["placement_prefs"] = [*dict.fromkeys((*kept, *args.placement_pref_add))]
    labels = {**nested(draft, "labels"), **dict(args.label_add)}
    draft["labels"] = {key: value for key, value in labels.items() if key not in args.label_rm}
    if args.on_change_rm:
        draft["on_change"] = None
    if args.health_none:
        draft["health"] = None
    if draft.get("replicas") is None:
        # A global spec shows no number, and a draft takes one or none.
        draft.pop("replicas", None)
    return {"name": name, **draft}


def refuse_changes(args: Namespace) -> None:
    """Raise InvalidRequest if any flag changes the spec: `--rollback` brings back a whole one."""
    empty: Answer = {"references": [], "constraints": [], "labels": {}}
    try:
        changed = changed_spec(args.name, empty, args) != {"name": args.name, **empty}
    except InvalidRequest:
        changed = True
    removed = (args.constraint_rm, args.placement_pref_rm, args.label_rm)
    if changed or args.on_change_rm or args.health_none or any(removed):
        raise InvalidRequest("--rollback goes alone; change the service afterwards")


def _given(args: Namespace, present: Mapping[str, object]) -> Answer:
    """Return the parts of a spec that flags name."""
    given: Answer = {
        "references": given_references(args, present),
        "constraints": args.constraint,
        "placement_prefs": args.placement_pref,
        "uid": args.uid,
        "gid": args.gid,
        "labels": dict(args.label) or None,
        "certificate": args.certificate,
        "logs": args.logs,
        "on_change": _on_change(args, present.get("on_change")),
        "update": given_update(args, present.get("update")),
        "health": given_health(args, present.get("health")),
    }
    if args.is_global:
        given["global"] = True
    elif args.replicas is not None:
        given |= {"replicas": args.replicas, "global": False}
    return {key: value for key, value in given.items() if value is not None}


def _on_change(args: Namespace, present: object) -> Answer | None:
    timeout: Answer = {}
    if args.on_change_timeout is not None:
        timeout = {"timeout_s": args.on_change_timeout}
    if args.on_change_signal:
        return {"signal": args.on_change_signal, **timeout}
    if args.on_change_command:
        return {"command": args.on_change_command, **timeout}
    if not timeout:
        return None
    if not isinstance(present, dict):
        raise InvalidRequest("--on-change-timeout goes with --on-change-signal or -command")
    return {**present, **timeout}
