"""The words behind `make lab ARGS="..."`: which scenario, in what manner, or another errand."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from docs.lab import bundle, conductor, leftovers, service_shell
from docs.lab.layout import DEFAULT_PORT, Layout, default_runtime
from docs.lab.scenarios.registry import DEFAULT, SCENARIOS, scenario_named
from docs.lab.shell import LabError

UNUSABLE = 2
_EPILOG = """\
examples:
  make lab                                    the tour; Enter goes on
  make lab ARGS=--list                        what there is
  make lab ARGS="--scenario locked"           another one
  make lab ARGS="--scenario locked --auto"    without waiting; fails if anything differs
  make lab ARGS="shell red"                   in a second terminal: be the attacker

exit codes: 0 all as told, 1 something differs, 2 wrong usage or an unusable place,
3 something cannot be shown on this machine, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words say and return an exit code."""
    arguments = _parser().parse_args(argv)
    repository = Path(__file__).resolve().parents[2]
    layout = Layout(
        repository,
        (arguments.directory or repository / ".lab").resolve(),
        (arguments.runtime or default_runtime()).resolve(),
        arguments.port,
    )
    try:
        return _run(arguments, layout)
    except (LabError, OSError) as error:
        sys.stderr.write(f"lab: {error}\n")
        return UNUSABLE


def _run(arguments: argparse.Namespace, layout: Layout) -> int:
    if arguments.list:
        width = max(len(scenario.name) for scenario in SCENARIOS)
        for scenario in SCENARIOS:
            sys.stdout.write(f"{scenario.name:<{width}}  {scenario.summary}\n")
        return 0
    match arguments.errand:
        case "shell":
            return service_shell.run(layout, arguments.service)
        case "reset":
            return leftovers.reset(layout)
        case "bundle":
            return bundle.run(layout.repository, arguments.output)
        case _:
            return conductor.run(scenario_named(arguments.scenario), layout, _manner(arguments))


def _manner(arguments: argparse.Namespace) -> conductor.Manner:
    guided = not arguments.auto and sys.stdin.isatty() and sys.stdout.isatty()
    return conductor.Manner(waits=guided, stays=guided or arguments.stay_up, keeps=arguments.keep)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab.py",
        description="The guided lab of Strongroom.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    parser.add_argument("--scenario", default=DEFAULT.name, metavar="NAME", help="which to run")
    parser.add_argument(
        "--auto", "--once", action="store_true", dest="auto", help="run through without waiting"
    )
    parser.add_argument("--stay-up", action="store_true", help="after --auto: until Ctrl-C")
    parser.add_argument("--keep", action="store_true", help="leave the managers' and nodes' data")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="state (default: .lab)")
    parser.add_argument(
        "--runtime", type=Path, metavar="DIR", help="sockets, mounts, made-up values"
    )
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="the first of 40 ports")
    errands = parser.add_subparsers(dest="errand", metavar="ERRAND")
    shell = errands.add_parser("shell", help="a shell as a service of the lab that is up")
    shell.add_argument("service", metavar="SERVICE", help="red, blue or twitter")
    errands.add_parser("reset", help="end what a killed lab left, and remove all it wrote")
    pack = errands.add_parser("bundle", help="pack an offline copy for a classroom")
    pack.add_argument("--output", type=Path, metavar="FILE", help="default: in build/")
    return parser
