"""The progress of one long command: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TextIO

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and those that there are in all."""

STEP: Final = 10
"""Percent between two lines where there is no terminal."""
_REDRAW: Final = 0.5
"""Percent between two drawings of the bar."""


@contextmanager
def progress_bar(*, shown: bool, what: str = "", file: TextIO | None = None) -> Iterator[Progress]:
    """Give a function that shows progress while the block runs."""
    out = file or sys.stdout
    if not shown:
        yield _ignore
    elif out.isatty():
        with _bar(what, out) as progress:
            yield progress
    else:
        yield _Lines(what, out)


def _ignore(done: int, total: int) -> None:
    del done, total


class _Lines:
    """Prints a line for each ``STEP`` percent; never fewer than were printed before."""

    def __init__(self, what: str, out: TextIO) -> None:
        self._prefix = f"{what}: " if what else ""
        self._out = out
        self._next = 0

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // total if total else 100
        if percent >= self._next:
            print(f"{self._prefix}{percent}%", file=self._out, flush=True)
            self._next = percent - percent % STEP + STEP


@contextmanager
def _bar(what: str, out: TextIO) -> Iterator[Progress]:
    # A terminal's look takes longer to load than most images to look at.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Board  # noqa: PLC0415

    columns = (
        *((TextColumn("{task.description}"),) if what else ()),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Board(*columns, console=Console(file=out), auto_refresh=False) as board:
        task = board.add_task(what, total=None)
        drawn = -100.0

        def show(done: int, total: int) -> None:
            nonlocal drawn
            percent = 100 * done / total if total else 100.0
            if percent - drawn >= _REDRAW or done >= total:
                drawn = percent
                board.update(task, completed=done, total=total, refresh=True)

        yield show
