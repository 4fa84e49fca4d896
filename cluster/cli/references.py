"""A service's references to secrets and configs: from flags to a draft's list and its next one.
Pure.

Each kind has flags of its own, which leave references of the other kind alone. What a manager
defaults or refuses is the manager's business.
"""

from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cluster.cli.answers import Answer, rows
from cluster.cli.arguments import Parser, duration, user_id
from cluster.protocol.errors import InvalidRequest

_REFERENCE_FIELDS: Final = (
    "source", "target", "uid", "gid", "mode", "version", "on-lease-loss", "lease",
)  # fmt: skip
_READ: Final[Mapping[str, Callable[[str], object]]] = {
    "uid": user_id,
    "gid": user_id,
    "lease": duration,
}
_CALLED: Final = {"on-lease-loss": "on_lease_loss", "lease": "lease_s"}
"""What a draft calls a field, where that differs."""


def reference(text: str) -> Answer:
    """Return the reference in `NAME` or `source=NAME,target=FILE,uid=,gid=,mode=,version=`.

    A bare `previous` asks for the version before as well.
    """
    if "=" not in text and "," not in text:
        return {"source": text}
    fields: Answer = {}
    for part in text.split(","):
        if part == "previous" and part not in fields:
            fields[part] = True
            continue
        key, equals, value = part.partition("=")
        if key not in _REFERENCE_FIELDS or not equals or not value or key in fields:
            raise ArgumentTypeError(
                f"reads NAME, or source=NAME with any of {', '.join(_REFERENCE_FIELDS[1:])}, "
                "previous, each once"
            )
        fields[key] = _READ.get(key, str)(value)
    if "source" not in fields:
        raise ArgumentTypeError("names no source; it reads source=NAME,target=FILE")
    return {_CALLED.get(key, key): value for key, value in fields.items()}


def config_reference(text: str) -> Answer:
    """Return the reference to a config in `NAME` or `source=NAME,target=FILE,uid=,gid=,mode=`."""
    found = reference(text)
    if not {"version", "previous"}.isdisjoint(found):
        raise ArgumentTypeError("a config has one version; version and previous go with secrets")
    return {**found, "config": True}


def add_reference_flags(parser: Parser) -> None:
    """Add the flags that say all secrets, or all configs, of a service."""
    parser.add_argument(
        "--secret",
        type=reference,
        action="append",
        metavar="SECRET",
        help="a secret's name, or source=NAME,target=FILE,uid=N,gid=N,mode=0440,"
        "version=primary|N,on-lease-loss=keep|wipe,lease=5m,previous; repeatable",
    )
    parser.add_argument(
        "--config",
        type=config_reference,
        action="append",
        metavar="CONFIG",
        help="a config's name, or source=NAME,target=FILE,uid=N,gid=N,mode=0440,"
        "on-lease-loss=keep|wipe,lease=5m; repeatable",
    )


def add_reference_changes(parser: Parser) -> None:
    """Add the flags that add and remove single references."""
    for kind, read in (("secret", reference), ("config", config_reference)):
        parser.add_argument(
            f"--{kind}-add",
            type=read,
            action="append",
            default=[],
            metavar=kind.upper(),
            help="add a reference, or replace the one with its target",
        )
        parser.add_argument(
            f"--{kind}-rm",
            action="append",
            default=[],
            metavar="NAME",
            help=f"remove the references to a {kind}, or the one with this target",
        )


def given_references(args: Namespace, present: Mapping[str, object]) -> list[Answer] | None:
    """Return the list that flags name, None where none does: of a kind that is not named, what the
    present spec has."""
    if args.secret is None and args.config is None:
        return None
    kept = rows(dict(present), "references") if "references" in present else []
    secrets = _of_kind(kept, config=False) if args.secret is None else args.secret
    configs = _of_kind(kept, config=True) if args.config is None else args.config
    return [*secrets, *configs]


def changed_references(references: Sequence[Answer], args: Namespace) -> list[Answer]:
    """Return the list after single references were added and removed."""
    return [
        *_changed(_of_kind(references, config=False), args.secret_add, args.secret_rm),
        *_changed(_of_kind(references, config=True), args.config_add, args.config_rm),
    ]


def _of_kind(references: Sequence[Answer], *, config: bool) -> list[Answer]:
    return [one for one in references if bool(one.get("config")) is config]


def _changed(
    references: Sequence[Answer], added: Sequence[Answer], removed: Sequence[str]
) -> list[Answer]:
    by_target = {_target(one): one for one in references}
    for name in removed:
        gone = [target for target, one in by_target.items() if name in {target, one["source"]}]
        if not gone:
            raise InvalidRequest(f"the service has no reference to {name}; see `service inspect`")
        for target in gone:
            del by_target[target]
    return [*({**by_target, **{_target(one): one for one in added}}).values()]


def _target(one: Answer) -> str:
    return str(one.get("target") or one["source"])
