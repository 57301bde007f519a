"""``blkxact watch``: live progress bars of a daemon's jobs.

The daemon is asked a few times a second; events make it sooner, so no ending is missed.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from qemu.qmp import EventListener, QMPClient
from rich.console import Console

from .client import connected
from .job_board import ENDINGS, JobBoard

POLL_SECONDS: Final = 0.2


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``watch``."""
    parser.epilog = "Ends at ctrl-C, when the daemon ends, or with --until-idle."
    parser.add_argument("socket", metavar="SOCKET", help="path of a Unix socket, or HOST:PORT")
    parser.add_argument(
        "--until-idle", action="store_true", help="end as soon as no job is running"
    )


def run(args: argparse.Namespace) -> int:
    """Show jobs; the exit status is 1 if one failed."""
    console = Console(highlight=False)
    board = JobBoard(console)
    try:
        with board:
            asyncio.run(_watch(args, board))
    except KeyboardInterrupt:
        console.print()
    return int(any(outcome.startswith("failed") for outcome in board.outcomes.values()))


async def _watch(args: argparse.Namespace, board: JobBoard) -> None:
    async with connected(args.socket) as client:
        listener = EventListener(names=ENDINGS)
        with client.listen(listener):
            await follow_jobs(
                client, listener, board, done=lambda: args.until_idle and not board.busy
            )


async def follow_jobs(
    client: QMPClient, listener: EventListener, board: JobBoard, *, done: Callable[[], bool]
) -> None:
    """Keep ``board`` up to date until ``done()``, which is asked after each look at the jobs.

    ``listener`` hears the events in ``ENDINGS`` since before the first job of interest started.
    """
    while True:
        jobs = cast("list[dict[str, Any]]", await client.execute("query-jobs"))
        while not listener.empty():
            board.note(await listener.get())
        board.show(jobs)
        if done():
            return
        try:
            board.note(await asyncio.wait_for(listener.get(), POLL_SECONDS))
        except TimeoutError:
            continue
