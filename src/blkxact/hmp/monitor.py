"""The human monitor, as ``human-monitor-command`` uses it: one line in, the text of its reply out.

The table ``COMMANDS`` holds what is understood. A new command touches the table and its function.

QEMU's counterpart: ``monitor/hmp.c``, ``hmp-commands.hx``, ``hmp-commands-info.hx``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from blkxact.errors import QmpError

from . import drives, info, jobs, media, snapshots
from .command import DEVICE, HmpCommand
from .command_line import (
    Flag,
    HmpRefusal,
    Rest,
    Scanner,
    Size,
    Word,
    parse_arguments,
)
from .commit import commit
from .host import Context, HmpLayer, Query
from .qemu_io import qemu_io


async def _qemu_io(context: Context, arguments: Mapping[str, Any]) -> None:
    qdev = bool(arguments.get("qdev"))
    await qemu_io(context, arguments["device"], arguments["command"], qdev=qdev)


async def _commit(context: Context, arguments: Mapping[str, Any]) -> None:
    await commit(context, arguments["device"])


async def _block_resize(context: Context, arguments: Mapping[str, Any]) -> None:
    await context.execute("block_resize", arguments)


def _as_in_qmp(name: str) -> Callable[[Context, Mapping[str, Any]], Awaitable[None]]:
    """Return what runs the QMP command of that name, which has no arguments."""

    async def run(context: Context, arguments: Mapping[str, Any]) -> None:
        del arguments
        await context.query(name)

    return run


async def _quit(context: Context, arguments: Mapping[str, Any]) -> None:
    """End the emulator; this does not wait for it, as the emulator may wait for this command."""
    del arguments
    context.layer.on_quit()


async def _help(context: Context, arguments: Mapping[str, Any]) -> None:
    words = arguments.get("name", "").split()
    table, prefix = COMMANDS, ""
    if words and words[0] == "info":
        table, prefix = INFO, "info "
        words = words[1:]
    if words and words[0] not in table:
        raise HmpRefusal(f"unknown command: '{prefix}{words[0]}'\n")
    for name in words[:1] or sorted(table):
        context.answer(_usage(f"{prefix}{name}", table[name]))


async def _info_help(context: Context, arguments: Mapping[str, Any]) -> None:
    del arguments
    await _help(context, {"name": "info"})


def _usage(name: str, command: HmpCommand) -> str:
    return f"{name} {command.params} -- {command.summary}\n"


INFO: Mapping[str, HmpCommand] = {
    "block": HmpCommand(
        info.info_block,
        (Flag("nodes", "n"), Flag("verbose", "v"), Word("device", DEVICE.expected, optional=True)),
        "[-n] [-v] [device]",
        "show devices, or named nodes (-n), in detail (-v)",
    ),
    "block-jobs": HmpCommand(info.info_block_jobs, (), "", "show how far the jobs are"),
    "blockstats": HmpCommand(info.info_blockstats, (), "", "show the counters of the devices"),
    "name": HmpCommand(info.info_name, (), "", "show the name of the emulator"),
    "snapshots": HmpCommand(snapshots.info, (), "", "show the snapshots of the disks"),
    "status": HmpCommand(info.info_status, (), "", "show whether the guest runs"),
    "version": HmpCommand(info.info_version, (), "", "show the version"),
}

COMMANDS: Mapping[str, HmpCommand] = {
    **drives.COMMANDS,
    **jobs.COMMANDS,
    **media.COMMANDS,
    **snapshots.COMMANDS,
    "block_resize": HmpCommand(
        _block_resize, (DEVICE, Size("size")), "device size", "change the size of a disk (MiB)"
    ),
    "commit": HmpCommand(_commit, (DEVICE,), "device|all", "write a disk into its backing file"),
    **dict.fromkeys(
        ("cont", "c"), HmpCommand(_as_in_qmp("cont"), (), "", "let the guest run again")
    ),
    "exit_preconfig": HmpCommand(
        _as_in_qmp("x-exit-preconfig"), (), "", "make the machine, and let the guest run"
    ),
    "help": HmpCommand(_help, (Rest("name"),), "[cmd]", "list the commands"),
    "info": HmpCommand(_info_help, (), "subcommand", "show something of the emulator"),
    "qemu-io": HmpCommand(
        _qemu_io,
        (Flag("qdev", "d"), DEVICE, Word("command")),
        '[-d] [device] "[command]"',
        "make a request as the guest would (-d: device is a qdev id)",
    ),
    **dict.fromkeys(("quit", "q"), HmpCommand(_quit, (), "", "end the emulator")),
    **dict.fromkeys(("stop", "s"), HmpCommand(_as_in_qmp("stop"), (), "", "stop the guest")),
    "system_powerdown": HmpCommand(
        _as_in_qmp("system_powerdown"), (), "", "ask the guest to shut down"
    ),
    "system_reset": HmpCommand(_as_in_qmp("system_reset"), (), "", "reset the machine"),
}

_IN_PRECONFIG = frozenset(
    [
        "?",
        "block_job_cancel",
        "block_job_complete",
        "block_job_pause",
        "block_job_resume",
        "block_job_set_speed",
        "block_resize",
        "block_set_io_throttle",
        "block_stream",
        "clear",
        "closefd",
        "exit_preconfig",
        "getfd",
        "help",
        "info",
        "nbd_server_add",
        "nbd_server_remove",
        "nbd_server_start",
        "nbd_server_stop",
        "netdev_add",
        "netdev_del",
        "object_add",
        "object_del",
        "qom-get",
        "qom-list",
        "qom-set",
        "quit",
        "q",
    ]
)
"""Commands for which the machine need not be made (-preconfig)."""
_INFO_IN_PRECONFIG = frozenset(
    [
        "chardev",
        "history",
        "hotpluggable-cpus",
        "iothreads",
        "memdev",
        "name",
        "qom-tree",
        "status",
        "uuid",
        "version",
    ]
)


async def run(
    layer: HmpLayer,
    command_line: str,
    *,
    query: Query | None = None,
    lock: asyncio.Lock | None = None,
) -> str:
    """Run one command line and return its reply, which also carries refusals.

    ``query`` answers QMP queries, for ``info``. ``lock`` is the emulator's, which is held but
    for the time in which a request of the guest is waited for.
    """
    context = Context(layer, query, lock)
    async with context:
        try:
            await _run(context, command_line)
        except HmpRefusal as refusal:
            context.answer(str(refusal))
        except QmpError as error:
            context.answer_error(error, "Error: ")
    return "".join(context.reply).replace("\n", "\r\n")


async def _run(context: Context, command_line: str) -> None:
    line = command_line.lstrip()
    if not line:
        return
    scanner = Scanner(line, context.print)
    name = _name(scanner)
    table = COMMANDS
    end = scanner.position
    scanner.skip_space()
    if name == "info" and scanner.rest:
        table = INFO
        name = _name(scanner)
        end = scanner.position
    command = table.get("help" if name == "?" else name)
    if command is None:
        raise HmpRefusal(f"unknown command: '{line[:end]}'\n")
    permitted = _INFO_IN_PRECONFIG if table is INFO else _IN_PRECONFIG
    if context.layer.machine.leave_preconfig is not None and name not in permitted:
        when = "until machine initialization has completed"
        raise HmpRefusal(f"Command '{line[:end]}' not available {when}.\n")
    scanner.skip_space()
    start = scanner.position
    try:
        arguments = parse_arguments(name, command.arguments, scanner)
    except HmpRefusal as refusal:
        hint = f'Try "help {line[:start].rstrip()}" for more information\n'
        raise HmpRefusal(f"{refusal}{hint}") from refusal
    await command.run(context, arguments)


def _name(scanner: Scanner) -> str:
    """Return the name of a command: it ends at white space or at a slash."""
    scanner.skip_space()
    start = scanner.position
    while scanner.rest and not scanner.rest[0].isspace() and scanner.rest[0] != "/":
        scanner.position += 1
    return scanner.line[start : scanner.position]
