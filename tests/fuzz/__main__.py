"""Coverage-guided fuzzing of the decoders: `python -m tests.fuzz [TARGET ...] --seconds 20`.

Each target runs in a process of its own under libFuzzer (atheris), with branches of `cluster` and
`agent` instrumented, a limit of memory and one of time for each input. What it learnt is kept in
build/fuzz/<target>; an input that breaks the property is left in build/fuzz and printed as the
command that replays it. Ends with 1 if any was found.
"""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.fuzz.target import CANARY

PLACE: Final = Path("build/fuzz")
MEMORY_MB: Final = 1024
INPUT_SECONDS: Final = 5
INPUT_BYTES: Final = 8192
WORD_BYTES: Final = 64
"""What libFuzzer takes in a dictionary."""
FOUND: Final = 1


def main() -> int:
    """Run the targets asked for, one after another."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all of them")
    parser.add_argument("--seconds", type=int, default=20, help="for each target")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one input, on one target")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        fuzz(arguments.targets[0], arguments.seconds)
    known = names()
    unknown = set(arguments.targets) - set(known)
    if unknown:
        parser.error(f"there is no target {min(unknown)}; there are {' '.join(known)}")
    if arguments.replay is not None:
        target_of(arguments.targets[0]).check(arguments.replay.read_bytes())
        return 0
    broken = [name for name in arguments.targets or known if not run(name, arguments.seconds)]
    sys.stdout.write(f"{len(arguments.targets or known)} targets, broken: {broken or 'none'}\n")
    return FOUND if broken else 0


def names() -> list[str]:
    """Return every target's name."""
    from tests.fuzz import asked, networked, stored

    return [target.name for target in (*networked.TARGETS, *stored.TARGETS, *asked.TARGETS)]


def target_of(name: str) -> Any:  # noqa: ANN401  # a Target; the import waits for instrumentation
    """Return a target."""
    from tests.fuzz import asked, networked, stored

    return next(
        one for one in (*networked.TARGETS, *stored.TARGETS, *asked.TARGETS) if one.name == name
    )


def run(name: str, seconds: int) -> bool:
    """Fuzz one target in a child; return whether it held."""
    corpus = PLACE / name
    corpus.mkdir(parents=True, exist_ok=True)
    before = set(PLACE.glob(f"{name}-*"))
    command = [sys.executable, "-m", "tests.fuzz", name, "--child", "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    last = [line for line in done.stderr.splitlines() if line.startswith(("#", "Done"))][-1:]
    sys.stdout.write(f"{name:20} {'held' if done.returncode == 0 else 'BROKEN'}  {last}\n")
    sys.stdout.flush()
    if done.returncode == 0:
        return True
    sys.stdout.write(f"{done.stdout[-3000:]}\n{done.stderr[-1000:]}\n")
    for found in sorted(set(PLACE.glob(f"{name}-*")) - before):
        sys.stdout.write(f"  python -m tests.fuzz {name} --replay {found}\n")
    return False


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target here; libFuzzer ends the process."""
    atheris = importlib.import_module("atheris")  # of the venv for fuzzing alone
    with atheris.instrument_imports(include=["cluster", "agent"]):
        target = target_of(name)
    corpus = PLACE / name
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = PLACE / f"{name}.dict"
    known = [word for word in (CANARY, *target.words) if len(word) < WORD_BYTES]
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in known))
    arguments = [
        "tests.fuzz", str(corpus), f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={INPUT_SECONDS}", f"-max_len={INPUT_BYTES}", f"-artifact_prefix={PLACE}/{name}-",
        f"-dict={words}",
    ]  # fmt: skip
    atheris.Setup(arguments, target.check)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    sys.exit(main())
