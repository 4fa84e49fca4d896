"""Values that the cluster makes: asking for them, and waiting for their rotation.

The change is durable before the waiting starts: when the time runs out the rotation goes on.
"""

import time
from argparse import Namespace
from typing import Final

from cluster.cli.answers import Answer, nested, number, text
from cluster.cli.connection import PAUSE_S, Connection, connect, path_of
from cluster.cli.generation import SCHEDULE
from cluster.cli.output import (
    ExitCode,
    clear_progress,
    complain,
    print_json,
    print_object,
    print_result,
    say,
    show_progress,
)
from cluster.cli.secret_versions import terms_of
from cluster.protocol.errors import ClusterError, Unavailable

POLL_S: Final = 10.0
POLL_MARGIN_S: Final = 10.0


def has_schedule(args: Namespace) -> bool:
    """Return whether the flags say anything of a schedule."""
    return args.rotate_every is not None or args.hook is not None


def contradiction(args: Namespace) -> str:
    """Return what is wrong with the flags of `secret create`, or ""."""
    if has_schedule(args) and args.generate is None:
        return "say how later values are made: --generate password, hex, rsa or ed25519"
    if args.generate is not None and args.file is not None and not has_schedule(args):
        return "give a file or --generate, not both"
    return "--length goes with --generate" if args.length and args.generate is None else ""


def generate(args: Namespace) -> Answer:
    """Create a secret whose first value the manager makes; return its answer."""
    asked: Answer = {"generator": args.generate, "labels": dict(args.label)}
    asked |= {"terms": terms_of(args), **_length(args)}
    return connect(args).write("POST", path_of("secrets", args.name, "generated"), asked)


def schedule_new(args: Namespace, connection: Connection, created: Answer) -> ExitCode:
    """Give a secret that was just created its schedule; with a hook and a generated value, rotate
    it at once: so far the third party does not know it."""
    line = f"secret {args.name} created, version 1"
    try:
        scheduled = set_schedule(args, connection)
    except ClusterError as error:
        print_result(args, created, line, "name")
        return complain(
            f"secret {args.name} was created, but its schedule was refused: {error.message}; "
            "give it one with `strongroom secret update`"
        )
    if args.hook is None or args.file is not None:
        print_result(args, {**created, **scheduled}, line, "name")
        return ExitCode.DONE
    if args.format == "table" and not args.quiet:
        say(line)
    return start(args, connection, {**created, **scheduled})


def set_schedule(args: Namespace, connection: Connection) -> Answer:
    """Send what the flags say of the schedule."""
    asked: Answer = {"every_s": args.rotate_every, "hook": args.hook, "generator": args.generate}
    asked = {key: value for key, value in asked.items() if value is not None}
    path = path_of("secrets", args.name, "schedule")
    return connection.write("PUT", path, {**asked, **_length(args)})


def update_schedule(args: Namespace, connection: Connection) -> Answer | None:
    """Change the schedule as the flags of `secret update` say; None: they say nothing of it."""
    if args.no_rotate_every:
        return connection.write("DELETE", path_of("secrets", args.name, "schedule"))
    if args.no_hook:
        args.hook = ""
    asked = (args.rotate_every, args.hook, args.generate, args.length)
    return set_schedule(args, connection) if any(one is not None for one in asked) else None


def rotate(args: Namespace) -> ExitCode:
    """Rotate to a value that the manager makes."""
    if args.file is not None:
        return complain("give a file or --generate, not both", ExitCode.USAGE)
    if terms_of(args):
        return complain(
            "a generated version takes the secret's own overlap and expiry; set them with "
            "`strongroom secret update`",
            ExitCode.USAGE,
        )
    return start(args, connect(args))


def start(args: Namespace, connection: Connection, created: Answer | None = None) -> ExitCode:
    """Start a rotation and wait until its new version is in place.

    `created`: what the same command did before, for its JSON.
    """
    asked: Answer = {}
    if args.generate not in (None, SCHEDULE) and not has_schedule_flags(args):
        asked = {"generator": args.generate, **_length(args)}
    answer = connection.write("POST", path_of("secrets", args.name, "rotation"), asked)
    return follow(args, connection, {**(created or {}), **answer})


def has_schedule_flags(args: Namespace) -> bool:
    """Return whether this verb has set the schedule itself, so that a rotation follows it."""
    return hasattr(args, "rotate_every")


def give_up(args: Namespace) -> ExitCode:
    """Take the rotation that is under way back."""
    answer = connect(args).write("DELETE", path_of("secrets", args.name, "rotation"))
    line = f"the rotation of {args.name} is being taken back; see `strongroom secret rotation`"
    print_result(args, answer, line, "name")
    return ExitCode.DONE


def show(args: Namespace) -> int:
    """Show the schedule and the newest rotation."""
    print_object(args, connect(args).get(path_of("secrets", args.name, "rotation")))
    return ExitCode.DONE


def follow(args: Namespace, connection: Connection, answer: Answer) -> ExitCode:
    """Wait for the rotation that `answer` names, and print what it came to."""
    if getattr(args, "detach", False):
        print_result(args, answer, f"the rotation of {args.name} goes on by itself", "name")
        return ExitCode.DONE
    try:
        rotation = _wait(args, connection, answer)
    except KeyboardInterrupt:
        stays = "interrupted; the rotation goes on"
        return complain(stays, ExitCode.INTERRUPTED)
    clear_progress()
    if args.format == "json":
        print_json({**answer, "rotation": rotation})
    return _outcome(args, rotation)


def _wait(args: Namespace, connection: Connection, answer: Answer) -> Answer | None:
    """Return the rotation as it was seen last."""
    clock = connection.clock
    end_s = clock.monotonic_s() + args.timeout
    seen: Answer | None = None
    while True:
        wait_s = min(max(end_s - clock.monotonic_s(), 0.0), POLL_S)
        try:
            found = connection.get(
                path_of("secrets", args.name, "rotation"),
                [("wait", f"{wait_s:.3f}")],
                timeout_s=wait_s + POLL_MARGIN_S,
            )
            seen = nested(found, "rotation")
        except Unavailable:
            time.sleep(PAUSE_S)
        if seen is not None and _is_settled(seen, answer):
            return seen
        if clock.monotonic_s() >= end_s:
            return seen
        if seen is not None:
            show_progress(f"{args.name}: {text(seen, 'step')} {seen.get('error') or ''}")
            if seen.get("settled") is True:
                time.sleep(PAUSE_S)


def _is_settled(rotation: Answer, answer: Answer) -> bool:
    """Return whether the rotation asked for is as far as anybody waits for."""
    queued = answer.get("queued") is True and rotation.get("operation") == answer.get("operation")
    return rotation.get("settled") is True and not queued


def _outcome(args: Namespace, rotation: Answer | None) -> ExitCode:
    if rotation is None:
        return complain("no manager tells how far the rotation is; it goes on", _STILL)
    error = rotation.get("error")
    if rotation.get("step") == "failed":
        return complain(
            f"the rotation of {args.name} failed: {error}; version "
            f"{rotation.get('previous')} was not replaced"
        )
    if rotation.get("settled") is not True:
        why = f"; last error: {error}" if error else ""
        return complain(
            f"the rotation of {args.name} is in step {rotation.get('step')} after "
            f"{args.timeout:g} s{why}; it goes on, see `strongroom secret rotation {args.name}`",
            _STILL,
        )
    if args.format != "json":
        line = f"version {number(rotation, 'version')} is in place on every node that is up"
        told = f"{line}, and the third party confirmed it" if rotation.get("hook") else line
        say(args.name if args.quiet else told)
    return ExitCode.DONE


_STILL: Final = ExitCode.STILL_WAITING


def _length(args: Namespace) -> Answer:
    return {} if args.length is None else {"length": args.length}
