"""The page of controls, written from the tests' marks."""

from pathlib import Path

from tests.architecture.controls import controls

ROOT = Path(__file__).resolve().parent.parent


def controls_page() -> str:
    """Return one row a control."""
    lines = [
        "# Controls",
        "",
        "Written by `make docs` from the tests' marks; do not edit.",
        "",
        "That an attack fails shows little as long as nobody knows why. In each test below the",
        "attack of a row of [the threat model](../threat-model.md) fails, and succeeds once the",
        "mechanism in the second column is taken away: a seal without its tag, a policy that",
        "allows, a socket without its mode. The parts are the real ones, and it is taken away in",
        "that one test alone. A check fails when a row has no control, when the mechanism is none",
        "of the row's, and when a test does not look at both outcomes.",
        "",
        "| row | taken away | test |",
        "|---|---|---|",
    ]
    for one in controls(ROOT / "tests"):
        without = f"{one.without.path}::{one.without.symbol}"
        lines.append(f"| {one.threat_id} | `{without}` | `{one.test.path}::{one.test.symbol}` |")
    return "\n".join([*lines, ""])
