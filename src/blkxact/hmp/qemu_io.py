"""``qemu-io`` inside the monitor: a person acts as the guest.

Invariants:

* What QEMU prints on its standard output goes to the guest's console, mistakes in a command line
  to its standard error; errors of permissions, of ``truncate`` and of ``map`` are answered in the
  reply, as in QEMU.
* ``aio_*`` requests go on when the command is answered. All others are waited for, with the lock
  of the emulator let go: a request that stands at a breakpoint holds up its own session only, and
  any other can ``resume`` it.
* A command that writes takes the permission to write, and the backend keeps it.
* A node that is named gets a backend for as long as requests made by it are under way.
* ``abort`` and ``sigraise`` would end the emulator of everybody and are refused.

QEMU's counterpart: ``qemu-io-cmds.c``, hmp_qemu_io in ``block/monitor/block-hmp-cmds.c``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blkxact.block.backend import BlockBackend
from blkxact.block.types import Permission
from blkxact.errors import QmpError

from . import io_aio, io_debug, io_image, io_reopen, io_requests
from .io_session import IoSession, blkdebug_below
from .io_text import IoMistake, IoRefusal, IoUsage

if TYPE_CHECKING:
    from .host import Context

WRITE = Permission.WRITE
RESIZE = Permission.WRITE | Permission.RESIZE


@dataclass(frozen=True, slots=True)
class IoCommand:
    """One qemu-io command; ``most`` None stands for any number of words."""

    run: Callable[[IoSession, list[str]], Awaitable[None]]
    args: str
    summary: str
    least: int = 0
    most: int | None = 0
    perm: Permission = Permission.NONE


async def _help(session: IoSession, words: list[str]) -> None:
    if not words:
        for name in sorted(IO_COMMANDS):
            session.print(_usage(name))
    elif words[0] in NAMES:
        session.print(_usage(NAMES[words[0]]))
    else:
        raise IoRefusal(f"command {words[0]} not found\n")


async def _refuse(session: IoSession, words: list[str]) -> None:
    del words
    raise IoRefusal(f"{session.command} is refused: other sessions use this process too\n")


IO_COMMANDS: Mapping[str, IoCommand] = {
    "abort": IoCommand(_refuse, "", "not available here"),
    "aio_flush": IoCommand(io_aio.aio_flush, "", "wait for all asynchronous requests"),
    "aio_read": IoCommand(
        io_aio.aio_read, "[-Ciqv] [-P pattern] off len [len..]", "start a read", 2, None
    ),
    "aio_write": IoCommand(
        io_aio.aio_write, "[-Cfiquz] [-P pattern] off len [len..]", "start a write", 2, None, WRITE
    ),
    "alloc": IoCommand(io_image.alloc, "offset [count]", "show what is allocated", 1, 2),
    "break": IoCommand(io_debug.set_break, "event tag", "stop the next request there", 2, 2),
    "discard": IoCommand(io_requests.discard, "[-Cq] off len", "discard a range", 2, None, WRITE),
    "flush": IoCommand(io_image.flush, "", "make what was written durable"),
    "help": IoCommand(_help, "[command]", "list the commands", 0, 1),
    "info": IoCommand(io_image.info, "", "show the format of the image"),
    "length": IoCommand(io_image.length, "", "show the length of the disk"),
    "map": IoCommand(io_image.print_map, "", "list what is allocated"),
    "read": IoCommand(
        io_requests.read,
        "[-abCqv] [-P pattern [-s off] [-l len]] off len",
        "read a range",
        2,
        None,
    ),
    "readv": IoCommand(
        io_requests.readv, "[-Cqv] [-P pattern] off len [len..]", "read a range", 2, None
    ),
    "remove_break": IoCommand(io_debug.remove_break, "tag", "remove a breakpoint", 1, 1),
    "reopen": IoCommand(
        io_reopen.reopen, "[(-r|-w)] [-c cache] [-o options]", "change options", 0, None
    ),
    "resume": IoCommand(io_debug.resume, "tag", "let a stopped request go on", 1, 1),
    "sigraise": IoCommand(_refuse, "signal", "not available here", 1, 1),
    "sleep": IoCommand(io_debug.sleep, "ms", "wait", 1, 1),
    "truncate": IoCommand(
        io_image.truncate, "[-m prealloc_mode] off", "resize the disk", 1, 3, RESIZE
    ),
    "wait_break": IoCommand(io_debug.wait_break, "tag", "wait for a request to stop", 1, 1),
    "write": IoCommand(
        io_requests.write,
        "[-bcCfnquz] [-P pattern | -s source_file] off len",
        "write a range",
        2,
        None,
        WRITE,
    ),
    "writev": IoCommand(
        io_requests.writev, "[-Cfq] [-P pattern] off len [len..]", "write a range", 2, None, WRITE
    ),
}

SHORT = {
    "r": "read",
    "w": "write",
    "f": "flush",
    "t": "truncate",
    "l": "length",
    "i": "info",
    "d": "discard",
    "a": "alloc",
    "?": "help",
}
NAMES = {name: name for name in IO_COMMANDS} | SHORT


def _usage(name: str) -> str:
    command = IO_COMMANDS[name]
    return f"{name} {command.args} -- {command.summary}\n"


async def qemu_io(context: Context, name: str, line: str, *, qdev: bool = False) -> None:
    """Run one qemu-io command on a device, or on a node (then by a backend of its own).

    Raises ``QmpError`` when there is nothing of that name.
    """
    layer = context.layer
    backend = layer.find_backend(name) if qdev else layer.named_backend(name)
    if qdev and backend is None:
        raise QmpError(f"Device '{name}' not found")
    if backend is not None:
        await run_io_command(context, backend, line)
        return
    node = context.layer.lookup(None, name)
    backend = BlockBackend(context.layer.graph)
    backend.insert(node)
    try:
        await run_io_command(context, backend, line)
    finally:
        await _end_backend(context, backend)


async def _end_backend(context: Context, backend: BlockBackend) -> None:
    """Close a backend once its requests are over; do not wait for one that is suspended."""
    guest = context.layer.guest
    tasks = guest.tasks(backend)
    if tasks:
        await context.wait(_over_or_suspended(backend, tasks))
    if guest.tasks(backend) or backend.in_flight:
        await guest.start(None, _close_when_idle(context, backend))
    else:
        backend.close()


async def _over_or_suspended(backend: BlockBackend, tasks: list[asyncio.Task[None]]) -> None:
    over = asyncio.ensure_future(asyncio.wait(tasks))
    stops = [asyncio.ensure_future(d.rules.wait_suspended()) for d in blkdebug_below(backend.node)]
    await asyncio.wait([over, *stops], return_when=asyncio.FIRST_COMPLETED)
    for waiter in (over, *stops):
        waiter.cancel()


async def _close_when_idle(context: Context, backend: BlockBackend) -> None:
    await context.layer.guest.idle(backend)
    await backend.idle()
    backend.close()


async def run_io_command(context: Context, backend: BlockBackend, line: str) -> None:
    """Run one command line of qemu-io's language on a backend."""
    unsaid = context.layer.guest.take_unsaid()
    if unsaid:
        context.print(unsaid)
    words = [word for word in line.split(" ") if word]
    if not words:
        return
    name, *rest = words
    session = IoSession(context, backend, name)
    try:
        command = _find(name, len(rest))
        _take_permission(backend, command.perm)
        await command.run(session, rest)
    except IoUsage as refusal:
        session.complain(str(refusal))
        session.print(_usage(NAMES[name]))
    except IoMistake as refusal:
        session.complain(str(refusal))
    except IoRefusal as refusal:
        session.print(str(refusal))
    except QmpError as error:
        context.answer_error(error)


def _find(name: str, count: int) -> IoCommand:
    """Return the command that takes so many words; raises ``IoRefusal``."""
    if name not in NAMES:
        raise IoMistake(f'command "{name}" not found\n')
    command = IO_COMMANDS[NAMES[name]]
    if count >= command.least and (command.most is None or count <= command.most):
        return command
    if command.most is None:
        wanted = f"at least {command.least}"
    elif command.least == command.most:
        wanted = str(command.least)
    else:
        wanted = f"between {command.least} and {command.most}"
    raise IoMistake(f"bad argument count {count} to {name}, expected {wanted} arguments\n")


def _take_permission(backend: BlockBackend, perm: Permission) -> None:
    if backend.root is not None and not backend.tray_open and perm & ~backend.perm:
        backend.set_permissions(backend.perm | perm, backend.shared)
