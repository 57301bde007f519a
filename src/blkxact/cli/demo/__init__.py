"""``blkxact demo``: the main job, shown to a person on real images through a real socket.

Two disks get full backups, the guest writes on, an incremental transaction fails on one disk, its
bitmaps lose nothing, the retry succeeds, and each restored chain equals its disk. The daemon is a
process of its own; the demo is one QMP client among others could be. No QEMU is needed.

``disks`` makes the images, ``emulator`` is the daemon and the client, ``scenario`` the story,
``report`` the tables.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Final

from rich.console import Console

from blkxact.cli.report import write_page
from blkxact.cli.signalled import run_until_signal

from .disks import make_disks
from .scenario import Scenario

COMPLETION_MODES: Final = ("grouped", "deferred")
PLAIN_WIDTH: Final = 100
"""Columns where there is no terminal to ask."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``demo``."""
    add = parser.add_argument
    parser.epilog = (
        "Images that are named are opened read-only: the demo works on overlays of them."
    )
    add("images", metavar="IMAGE", nargs="*", help="work on these instead of two new disks")
    add("--keep", action="store_true", help="keep the images and say where they are")
    add("--completion-mode", choices=COMPLETION_MODES, default="grouped",
        help="what happens to the other jobs when one fails (default: %(default)s)")  # fmt: skip
    add("--page", metavar="FILE", type=Path, help="write a page that shows what happened")
    add("-v", "--verbose", action="store_true", help="show each step that the daemon takes")


def run(args: argparse.Namespace) -> int:
    """Run the demo; the exit status is 0 only when every promise was kept."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    directory = Path(tempfile.mkdtemp(prefix="blkxact-demo-"))
    try:
        return run_until_signal(_run(args, console, directory))
    finally:
        if args.keep:
            console.print(f"The images are in [bold]{directory}[/].")
        else:
            shutil.rmtree(directory, ignore_errors=True)


async def _run(args: argparse.Namespace, console: Console, directory: Path) -> int:
    disks = await make_disks(directory, args.images)
    record = None if args.page is None else directory / "demo.jsonl"
    scenario = Scenario(
        console,
        directory,
        disks,
        mode=args.completion_mode,
        verbose=args.verbose,
        record=record,
    )
    kept = await scenario.play()
    if record is not None:
        write_page(record, args.page)
        console.print(f"What happened, as a page: [bold]{args.page.absolute()}[/]", soft_wrap=True)
    return 0 if kept else 1
