"""Flags on how a change goes out and how a service is asked whether it works. Pure.

Says only what was asked for; what a manager defaults or refuses is the manager's business.
"""

import json
from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping
from typing import Final

from cluster.cli.answers import Answer
from cluster.cli.arguments import Parser, count, duration, positive
from cluster.protocol.errors import InvalidRequest

_ACTIONS: Final = ("pause", "continue", "rollback")
_POLICY: Final = {
    "parallelism": (count, "N", "tasks that change at once; 0: all"),
    "delay": (duration, "TIME", "rest between two groups"),
    "canary": (count, "N", "tasks that change first, alone"),
    "monitor": (duration, "TIME", "how long a task must stay healthy to count"),
    "patience": (duration, "TIME", "how long a task may take before it counts as failed"),
}
_SECONDS: Final = frozenset({"delay", "monitor", "patience"})
_HEALTH_TERMS: Final = {
    "interval": "interval_s",
    "timeout": "timeout_s",
    "retries": "retries",
    "replace": "replace_after_s",
}


def add_policy_flags(parser: Parser, prefix: str = "", suffix: str = "") -> None:
    """Add the flags of an update policy; `suffix`: what their help says besides."""
    for name, (read, metavar, help_text) in _POLICY.items():
        parser.add_argument(
            f"--{prefix}{name}", type=read, metavar=metavar, help=f"{help_text}{suffix}"
        )
    action = "failure-action" if prefix else "on-failure"
    parser.add_argument(
        f"--{prefix}{action}",
        dest=f"{prefix.replace('-', '_')}on_failure",
        choices=_ACTIONS,
        help=f"what happens when a task fails: pause, continue or rollback{suffix}",
    )


def add_health_flags(parser: Parser, *, change: bool) -> None:
    """Add the flags of a health check; `change`: also the one that takes it away."""
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--health-cmd",
        type=command_word,
        action="append",
        metavar="WORD",
        help="program that says by its exit status whether the service works, run as the service; "
        'repeat the flag for each argument, or give one JSON list: \'["/bin/check", "-q"]\'',
    )
    kind.add_argument(
        "--health-url", metavar="URL", help="fetched on the node: http on loopback; 2xx, 3xx pass"
    )
    kind.add_argument(
        "--health-process",
        action="store_true",
        help="healthy while the process started by `strongroom-agent exec` runs",
    )
    if change:
        kind.add_argument("--health-none", action="store_true", help="ask nothing any more")
    parser.add_argument(
        "--health-interval", type=duration, metavar="TIME", help="time between two checks"
    )
    parser.add_argument(
        "--health-timeout", type=duration, metavar="TIME", help="how long one check may take"
    )
    parser.add_argument(
        "--health-retries", type=positive, metavar="N", help="failures in a row that count"
    )
    parser.add_argument(
        "--health-replace",
        type=duration,
        metavar="TIME",
        help="try another node for a task that stays unhealthy for so long; 0: never (the default)",
    )


def command_word(text: str) -> tuple[str, ...]:
    """Return the words in a JSON list, or the one word that `text` is."""
    if not text.startswith("["):
        return (text,)
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ArgumentTypeError("reads a word, or a JSON list of words")
    return tuple(words)


def policy_of(args: Namespace, prefix: str = "") -> Answer:
    """Return what the flags say of a policy, as the API takes it."""
    said: Answer = {}
    for name in (*_POLICY, "on_failure"):
        value = getattr(args, f"{prefix.replace('-', '_')}{name}")
        if value is not None:
            said[f"{name}_s" if name in _SECONDS else name] = value
    return said


def policy_query(args: Namespace) -> list[tuple[str, str]]:
    """Return the same for a request whose body is a value."""
    return [(key, str(value)) for key, value in policy_of(args).items()]


def given_update(args: Namespace, present: object) -> Answer | None:
    """Return the policy of a spec: the present one with what the flags change."""
    said = policy_of(args, "update-")
    if not said:
        return None
    return {**(present if isinstance(present, Mapping) else {}), **said}


def given_health(args: Namespace, present: object) -> Answer | None:
    """Return the health check of a spec: another kind, or the present one with other terms."""
    terms: Answer = {}
    for flag, field in _HEALTH_TERMS.items():
        value = getattr(args, f"health_{flag}")
        if value is not None:
            terms[field] = value
    kind: Answer = {}
    if args.health_cmd:
        kind = {"command": [word for words in args.health_cmd for word in words]}
    elif args.health_url:
        kind = {"url": args.health_url}
    elif args.health_process:
        kind = {"process": True}
    if kind:
        return {**_terms_of(present), **kind, **terms}
    if not terms:
        return None
    if not isinstance(present, Mapping):
        raise InvalidRequest(
            "--health-interval, -timeout, -retries and -replace go with a health check"
        )
    return {**present, **terms}


def _terms_of(present: object) -> Answer:
    known = present if isinstance(present, Mapping) else {}
    return {field: known[field] for field in _HEALTH_TERMS.values() if field in known}
