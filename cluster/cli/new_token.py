"""Handing over a token that a manager shows once: on standard output, or in a new file."""

from argparse import Namespace
from collections.abc import Callable

from cluster.cli.answers import Answer
from cluster.cli.credentials import ReservedFile, show_once, with_secret
from cluster.cli.output import ExitCode, print_json, say
from cluster.protocol.errors import OutcomeUnknown
from cluster.protocol.secret_bytes import SecretBytes


def deliver_token(args: Namespace, ask: Callable[[], Answer], undo: str) -> ExitCode:
    """Ask for a token and hand it over; `undo`: the command that takes a lost one back."""
    if args.output is None:
        answer = ask()
        token = _taken(answer, undo)
        if args.format == "json":
            # Whoever asks for JSON reads the token from there; no other output of ours holds it.
            print_json(with_secret(answer, "token", token))
        else:
            show_once(token)
        return ExitCode.DONE
    with ReservedFile(args.output) as file:
        answer = ask()
        file.write(_taken(answer, undo))
    if args.format == "json":
        print_json(answer)
    elif not args.quiet:
        say(f"token written to {args.output}; it expires {_expiry(answer)}")
    return ExitCode.DONE


def _taken(answer: Answer, undo: str) -> SecretBytes:
    """Return the token and take it out of the answer."""
    token = answer.pop("token", None)
    if not isinstance(token, str) or not token:
        # The first answer was lost on its way, and a manager shows a token in that one only.
        raise OutcomeUnknown(
            f"the token was made, but the answer that showed it was lost; run `{undo}`, "
            "then make another"
        )
    return SecretBytes(token.encode())


def _expiry(answer: Answer) -> str:
    return str(answer.get("token_expires_at") or answer.get("expires_at") or "soon")
