"""``python -m bench``: run subjects and print their figures side by side."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .harness import BLKXACT, QEMU, BenchError, Figure, Settings, available_servers

SUBJECTS = {
    "round-trips": "bench_round_trips",
    "transaction": "bench_transaction",
    "backup": "bench_backup",
    "memory": "bench_memory",
    "nbd": "bench_nbd",
    "bitmap": "bench_bitmap",
    "scale": "bench_scale",
}


def main() -> int:
    """Measure what the command line names and print one table."""
    args = _arguments()
    console = Console(highlight=False, stderr=True)
    directory = Path(tempfile.mkdtemp(prefix="blkxact-bench-", dir=args.dir))
    settings = Settings(
        size=args.size << 20,
        turns=args.turns,
        directory=directory,
        servers=available_servers(),
        tell=lambda line: console.print(f"[dim]{line}[/]"),
    )
    try:
        figures: list[Figure] = []
        for subject in args.subjects or SUBJECTS:
            settings.tell(f"measuring {subject}")
            room = importlib.import_module(f".{SUBJECTS[subject]}", __package__)
            figures += room.run(settings)
        _print(figures)
    except BenchError as error:
        console.print(f"bench: {error}")
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=", ".join(SUBJECTS))
    parser.add_argument("--size", type=int, default=2048, help="MiB in backups (%(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each (%(default)s)")
    parser.add_argument("--dir", default=None, help="where images are made (the temporary one)")
    args = parser.parse_args()
    unknown = [subject for subject in args.subjects if subject not in SUBJECTS]
    if unknown:
        parser.error(f"no subject '{unknown[0]}'; there are {', '.join(SUBJECTS)}")
    return args


def _print(figures: list[Figure]) -> None:
    table = Table(title=f"Medians; {os.cpu_count()} processors, {platform.machine()}")
    table.add_column("subject", no_wrap=True)
    for column in ("unit", "QEMU", BLKXACT, "better by"):
        table.add_column(column, justify="right", no_wrap=True)
    for figure in figures:
        ratio = figure.ratio()
        table.add_row(
            figure.name,
            figure.unit,
            _number(figure.median(QEMU)),
            _number(figure.median(BLKXACT)),
            "-" if ratio is None else f"{ratio:.2f} x",
        )
    Console(width=max(100, Console().width), highlight=False).print(table)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
