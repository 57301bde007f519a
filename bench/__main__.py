"""``python -m bench``: run subjects, print their figures side by side and write them down."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from . import report
from .harness import BLKXACT, BenchError, Figure, Settings, available_servers

SUBJECTS = {
    "round-trips": "bench_round_trips",
    "start": "bench_start",
    "transaction": "bench_transaction",
    "convert": "bench_convert",
    "backup": "bench_backup",
    "memory": "bench_memory",
    "nbd": "bench_nbd",
    "cold": "bench_cold",
    "bitmap": "bench_bitmap",
    "scale": "bench_scale",
    "growth": "bench_growth",
    "large": "bench_large",
    "prove": "bench_prove",
}
QUICK = "quick"
QUICK_SUBJECTS = ("round-trips", "start", "convert", "nbd")
"""What issue 13 lists; done in five minutes."""
TURNS, QUICK_TURNS = 5, 3
RESULTS = Path(__file__).with_name("results.md")


def main() -> int:
    """Measure what the command line names, print one table and write a page."""
    args = _arguments()
    console = Console(highlight=False, stderr=True)
    directory = Path(tempfile.mkdtemp(prefix="blkxact-bench-", dir=args.dir))
    settings = Settings(
        size=args.size << 20,
        turns=args.turns,
        directory=directory,
        servers=available_servers(),
        report=lambda line: console.print(f"[dim]{line}[/]"),
        quick=args.quick,
    )
    subjects: dict[str, list[Figure]] = {}
    failed = False
    try:
        for subject in args.subjects:
            begin = time.monotonic()
            try:
                subjects[subject] = _module(subject).run(settings)
            except BenchError as error:  # the other subjects are measured all the same
                console.print(f"bench: {subject}: {error}")
                failed = True
            settings.report(f"measured {subject} for {time.monotonic() - begin:.0f} s")
            if args.output is not None:  # after each: a run that is ended loses nothing
                command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
                report.write(args.output, subjects, command)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        _print(figure for figures in subjects.values() for figure in figures)
    if args.output is not None:
        console.print(f"written to {args.output}")
    return int(failed)


def _module(subject: str) -> Any:
    return importlib.import_module(f".{SUBJECTS[subject]}", __package__)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    words = ", ".join(SUBJECTS)
    parser.add_argument(
        "subjects",
        nargs="*",
        metavar="SUBJECT",
        help=f"{words}, or {QUICK}: {', '.join(QUICK_SUBJECTS)} with few turns (default: all)",
    )
    parser.add_argument("--size", type=int, default=2048, help="MiB in backups (%(default)s)")
    parser.add_argument("--turns", type=int, help=f"of each ({TURNS}; {QUICK}: {QUICK_TURNS})")
    parser.add_argument("--dir", default=None, help="where images are made (the temporary one)")
    parser.add_argument(
        "--output", type=Path, help=f"page to write (all subjects or {QUICK}: {RESULTS.name})"
    )
    args = parser.parse_args()
    args.quick = args.subjects == [QUICK]
    if args.output is None and (args.quick or not args.subjects):
        args.output = RESULTS
    quick = [subject for subject in QUICK_SUBJECTS if subject in SUBJECTS]
    args.subjects = quick if args.quick else args.subjects or list(SUBJECTS)
    args.turns = args.turns or (QUICK_TURNS if args.quick else TURNS)
    unknown = [subject for subject in args.subjects if subject not in SUBJECTS]
    if unknown:
        parser.error(f"no subject '{unknown[0]}'; there are {words}")
    return args


def _print(figures: Iterable[Figure]) -> None:
    table = Table(title=f"Medians; {os.cpu_count()} processors, {platform.machine()}")
    table.add_column("subject", no_wrap=True)
    for column in ("unit", "QEMU", BLKXACT, "better by", "of pairs", "must"):
        table.add_column(column, justify="right", no_wrap=True)
    for figure in figures:
        *row, verdict = report.cells(figure)
        table.add_row(*row, style="red" if verdict else None)
    if table.row_count:
        Console(width=max(120, Console().width), highlight=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
