"""qemu-io's breakpoints: break, remove_break, resume, wait_break; and sleep.

QEMU's counterpart: break_f and the following in ``qemu-io-cmds.c``; bdrv_debug_breakpoint.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from blkxact.drivers.blkdebug import BlkdebugDriver
from blkxact.errors import os_error, strerror

from .io_session import breakpoint_driver
from .io_text import IoRefusal, c_integer

if TYPE_CHECKING:
    from .io_session import IoSession


def _driver(session: IoSession) -> BlkdebugDriver:
    driver = breakpoint_driver(session.backend.node)
    if driver is None:
        raise os_error(errno.EOPNOTSUPP)
    return driver


async def set_break(session: IoSession, words: list[str]) -> None:
    """``break``: suspend the next request that sends an event."""
    try:
        _driver(session).rules.add_breakpoint(words[0], words[1])
    except OSError as error:
        raise IoRefusal(f"Could not set breakpoint: {strerror(error)}\n") from error


async def remove_break(session: IoSession, words: list[str]) -> None:
    """``remove_break``: remove breakpoints of a tag and resume what stands at them."""
    try:
        _driver(session).rules.remove_breakpoint(words[0])
    except OSError as error:
        reason = strerror(error)
        raise IoRefusal(f"Could not remove breakpoint {words[0]}: {reason}\n") from error


async def resume(session: IoSession, words: list[str]) -> None:
    """``resume``: let one request of a tag go on."""
    try:
        _driver(session).rules.resume(words[0])
    except OSError as error:
        raise IoRefusal(f"Could not resume request: {strerror(error)}\n") from error


async def wait_break(session: IoSession, words: list[str]) -> None:
    """``wait_break``: wait until a request of a tag is suspended."""
    try:
        driver = _driver(session)
    except OSError as error:
        raise IoRefusal(f"Could not wait for breakpoint: {strerror(error)}\n") from error
    await session.wait(driver.rules.wait_suspended(words[0]))


async def sleep(session: IoSession, words: list[str]) -> None:
    """``sleep``: wait for milliseconds."""
    milliseconds = c_integer(words[0])
    if milliseconds is None or milliseconds < 0:
        raise IoRefusal(f"{words[0]} is not a valid number\n")
    await session.wait(session.context.layer.clock.sleep(milliseconds / 1000))
