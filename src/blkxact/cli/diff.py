"""``blkxact diff``: the same commands to blkxact and to a QEMU, and the first difference."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from blkxact.diff.compare import Comparison, Outcome, ScriptError
from blkxact.diff.emulator import StartError
from blkxact.diff.generate import RandomScript
from blkxact.diff.known import known_differences
from blkxact.diff.lines import Lines, Played
from blkxact.diff.script import Script
from blkxact.diff.shrink import shrink

from .errors import CliError
from .signalled import run_until_signal

STEPS = 40
"""Steps of a random script, unless ``--steps`` says otherwise."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``diff``."""
    parser.epilog = """\
A SCRIPT has a QMP command on each line; lines "image create ..." make its images, and at "restart"
both programs quit and start again. Without one,
random scripts are made from --seed, --seed + 1, and so on. A script that shows a difference is made
as short as possible and saved; give it as SCRIPT to see the difference again.

Differences that are listed in docs/differences-from-qemu.md are not reported. Scripts in which QEMU
crashes are counted.

exit status: 0, or 1 if there is a difference. A signal ends both programs as well.
"""
    parser.add_argument("scripts", metavar="SCRIPT", nargs="*", type=Path)
    parser.add_argument(
        "--against", metavar="PROGRAM", default="qemu-system-x86_64", help="default: %(default)s"
    )
    parser.add_argument("--program", metavar="PROGRAM", help="default: blkxact system")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--steps", metavar="N", type=int, default=STEPS, help="of a script; default: %(default)s"
    )
    parser.add_argument(
        "--runs", metavar="N", type=int, default=10, help="random scripts; default: %(default)s"
    )
    parser.add_argument(
        "--save", metavar="DIR", type=Path, default=Path(), help="where differences are saved"
    )
    parser.add_argument("--no-shrink", action="store_true", help="save the whole script")


def run(args: argparse.Namespace) -> int:
    """Compare; the exit status is 1 if there is a difference."""
    try:
        with tempfile.TemporaryDirectory(prefix="blkxact-diff-") as scratch:
            args.save.mkdir(parents=True, exist_ok=True)
            return run_until_signal(_compare(args, Path(scratch)))
    except (ScriptError, StartError, OSError) as error:
        raise CliError(str(error)) from error


async def _compare(args: argparse.Namespace, scratch: Path) -> int:
    ours = _program(args.program) if args.program else [sys.executable, "-m", "blkxact", "system"]
    comparison = Comparison(ours, _program(args.against), known_differences(), scratch)
    different = crashes = steps = 0
    for name, lines in _scripts(args):
        outcome = await comparison.run(lines)
        steps += len(outcome.script.steps)
        crashes += any(known.is_crash for known in outcome.explained)
        if outcome.difference is None:
            continue
        different += 1
        if not args.no_shrink:
            outcome = await _shortest(comparison, outcome)
        _report(args.save / f"{name}.qmp", outcome)
    summary = f"{steps} commands, {different} scripts with a difference"
    print(f"{summary}; QEMU crashed in {crashes}" if crashes else summary)
    return int(different > 0)


def _program(text: str) -> list[str]:
    """Return the words of a program, found here: it runs in a directory of its own."""
    name, *words = shlex.split(text)
    return [str(Path(name).absolute()) if "/" in name else name, *words]


def _scripts(args: argparse.Namespace) -> Iterator[tuple[str, Lines]]:
    if args.scripts:
        for path in args.scripts:
            yield f"{path.stem}-shorter", Played(Script.load(path))
        return
    for seed in range(args.seed, args.seed + args.runs):
        yield f"difference-{seed}", RandomScript(seed, args.steps)


async def _shortest(comparison: Comparison, outcome: Outcome) -> Outcome:
    """Shorten a script as long as it shows a difference of the same kind."""
    assert outcome.difference is not None
    kind, script, best = outcome.difference.kind, outcome.script, outcome

    async def still_fails(steps: Sequence[str]) -> bool:
        nonlocal best
        found = await comparison.run(Played(script.with_steps(steps)))
        if found.difference is None or found.difference.kind != kind:
            return False
        best = found
        return True

    await shrink(script.steps, still_fails)
    return best


def _report(path: Path, outcome: Outcome) -> None:
    difference, script = outcome.difference, outcome.script
    assert difference is not None
    path.write_text(str(script))
    print(f"{path}: {len(script.steps)} steps")
    for line in script.steps:
        print(f"    {line}")
    print(f"  {difference.where}\n    blkxact: {difference.ours}\n    QEMU:    {difference.theirs}")
