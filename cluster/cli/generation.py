"""Flags of values that the cluster makes: how, when, and with which hook."""

from typing import Final

from cluster.cli.arguments import Parser, duration, positive

KINDS: Final = ("password", "hex", "rsa", "ed25519")
SCHEDULE: Final = "schedule"
"""Stands for the kind that the secret's schedule names."""


def add_generation(parser: Parser, *, optional_kind: bool = False) -> None:
    """Add the flags of how a value is made; `optional_kind`: the secret's schedule may know it."""
    parser.add_argument(
        "--generate",
        choices=(*KINDS, SCHEDULE) if optional_kind else KINDS,
        nargs="?" if optional_kind else None,
        const=SCHEDULE if optional_kind else None,
        metavar="KIND",
        help="let the manager make the value: password, hex, rsa or ed25519"
        + (" (default: as the secret's schedule says)" if optional_kind else "")
        + "; nobody ever sees it",
    )
    parser.add_argument(
        "--length",
        type=positive,
        metavar="N",
        help="characters of a password or hex string, bits of an rsa key",
    )


def add_schedule(parser: Parser) -> None:
    """Add the flags of when a secret rotates by itself."""
    parser.add_argument(
        "--rotate-every",
        type=duration,
        metavar="TIME",
        help="rotate it by itself: 24h, 30d, ...; the values are made as --generate says",
    )
    parser.add_argument(
        "--hook",
        metavar="NAME",
        help="the manager's hook that changes the credential at the third party",
    )


def add_schedule_change(parser: Parser) -> None:
    """Add the flags that change or end a schedule."""
    add_generation(parser)
    add_schedule(parser)
    parser.add_argument(
        "--no-rotate-every", action="store_true", help="rotate it by hand only from now on"
    )
    parser.add_argument("--no-hook", action="store_true", help="rotate it without a hook")


def add_give_up(parser: Parser) -> None:
    """Add the flag that ends a rotation."""
    parser.add_argument(
        "--give-up",
        action="store_true",
        help="take the rotation back that is under way; the old version stays, or comes back",
    )
