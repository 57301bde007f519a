"""``blkxact watch``: live progress bars of a daemon's jobs, or the page of its record.

The daemon is asked a few times a second; events make it sooner, so no ending is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, cast

from qemu.qmp import EventListener, ExecInterruptedError, QMPClient, StateError
from rich.console import Console

from .client import ConnectionEndedError, connected, next_event
from .job_board import JobBoard
from .job_outcome import ENDINGS

POLL_SECONDS: Final = 0.2


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``watch``."""
    parser.epilog = """\
Ends at ctrl-C, when the daemon ends, or with --until-idle. With --web it prints the address of a
page on this machine; the daemon must keep a record (serve --record, system -record).

exit status: 0, or 1 if a job failed or was running when the daemon ended
"""
    parser.add_argument("socket", metavar="SOCKET", help="path of a Unix socket, or HOST:PORT")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--until-idle", action="store_true", help="end as soon as no job is running")
    ways.add_argument("--web", action="store_true", help="show all that happens in a browser")


def run(args: argparse.Namespace) -> int:
    """Show jobs; the exit status is 1 if one failed. Or serve the page; it is 0 then."""
    if args.web:
        from .watch_web import serve_page  # noqa: PLC0415 - bars need no server

        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve_page(args.socket))
        return 0
    console = Console(highlight=False)
    board = JobBoard(console)
    try:
        with board:
            asyncio.run(_watch(args, board, console))
    except KeyboardInterrupt:
        console.print()
    return int(board.has_failed)


async def _watch(args: argparse.Namespace, board: JobBoard, console: Console) -> None:
    listener = EventListener(names=ENDINGS)
    try:
        async with connected(args.socket) as client:
            with client.listen(listener):
                if not await client.execute("query-jobs"):
                    console.print("  no job is running")
                await follow_jobs(
                    client, listener, board, done=lambda: args.until_idle and not board.busy
                )
    except ConnectionEndedError:
        board.lose()
        console.print("  the daemon closed the connection")


async def follow_jobs(
    client: QMPClient, listener: EventListener, board: JobBoard, *, done: Callable[[], bool]
) -> None:
    """Keep ``board`` up to date until ``done()``, which is asked after each look at the jobs.

    ``listener`` has received the events in ``ENDINGS`` since before the first job of interest
    started.
    """
    while True:
        try:
            jobs = cast("list[dict[str, Any]]", await client.execute("query-jobs"))
        except (ExecInterruptedError, StateError):
            await _note_all(listener, board)
            raise
        await _note_all(listener, board)
        board.show(jobs)
        if done():
            return
        try:
            board.note(await asyncio.wait_for(next_event(client, listener), POLL_SECONDS))
        except TimeoutError:
            continue


async def _note_all(listener: EventListener, board: JobBoard) -> None:
    while not listener.empty():
        board.note(await listener.get())
