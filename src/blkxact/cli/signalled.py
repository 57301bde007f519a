"""A command that a signal ends in good order: what it has started is ended as well.

The signal cancels the command's task, so every ``finally`` on the way out is run.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, Final

ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATUS_SIGNALLED: Final = 128
"""Added to the number of the signal that ended a command, as shells do."""


def run_until_signal(command: Coroutine[Any, Any, int]) -> int:
    """Return the exit status of a command, or that of the signal which ended it."""
    received: list[int] = []

    async def run() -> int:
        task = asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            received.append(number)
            task.cancel()

        for number in ENDING_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        return await command

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        return STATUS_SIGNALLED + received[0]
