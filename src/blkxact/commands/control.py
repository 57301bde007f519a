"""The monitor itself.

QEMU's counterpart: ``qapi/control.json``, ``qapi/introspect.json``; ``qapi/misc.json`` for
human-monitor-command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from blkxact import PACKAGE
from blkxact.errors import QmpError
from blkxact.qapi.versions import absent_members, mentions, reword
from blkxact.qmp.session import version

from .command import Command

if TYPE_CHECKING:
    from blkxact.block_layer import BlockLayer
    from blkxact.qapi.common import NoArguments
    from blkxact.qapi.control import QmpCapabilities
    from blkxact.qapi.misc import HumanMonitorCommand


def _negotiated(layer: BlockLayer, args: QmpCapabilities) -> None:
    """qmp_capabilities, for who lists the commands: the session answers it itself."""
    raise NotImplementedError


def query_version(layer: BlockLayer, args: NoArguments) -> dict[str, Any]:
    """query-version."""
    del args
    return version(PACKAGE, layer.release)


def query_commands(layer: BlockLayer, args: NoArguments) -> list[dict[str, str]]:
    """query-commands."""
    del args
    return [{"name": name} for name in _table(layer)]


def query_qmp_schema(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-qmp-schema."""
    del args
    from blkxact.qapi.introspect import schema  # noqa: PLC0415 - few clients ask; it takes long

    commands = _table(layer).values()
    return schema(
        {command.name: command.model for command in commands},
        out_of_band={command.name for command in commands if command.allow_oob},
        release=layer.release,
    )


def _table(layer: BlockLayer) -> Mapping[str, Command]:
    from . import commands_for  # noqa: PLC0415 - the table holds these handlers

    return commands_for(layer)


async def quit_(layer: BlockLayer, args: NoArguments) -> None:
    """End the process in good order; the reply comes when all is closed, as in QEMU."""
    del args
    ended = layer.on_quit()
    if ended is not None:
        await ended.wait()


async def human_monitor_command(layer: BlockLayer, args: HumanMonitorCommand) -> str:
    """human-monitor-command: the guest's requests (qemu-io) and a few queries for people."""
    from blkxact.hmp import run  # noqa: PLC0415 - programs that need no guest do not load it

    async def query(name: str, arguments: Mapping[str, Any]) -> Any:
        from blkxact.qapi.validation import validate  # noqa: PLC0415 - it loads the schema

        from . import COMMANDS as TABLE  # noqa: PLC0415 - the table holds this handler

        try:
            result = TABLE[name].handler(layer, validate(TABLE[name].model, arguments))
            if TABLE[name].waits:
                result = await result
        except QmpError as error:
            reword(name, error, layer.release)
            raise
        if mentions(result, absent_members(layer.release)):
            from blkxact.qapi.by_release import of_release  # noqa: PLC0415 - it loads the schema

            return of_release(layer.release).result(name, result)
        return result

    return await run(layer, args.command_line, query=query, lock=layer.lock)


COMMANDS: Final = [
    Command(
        "human-monitor-command",
        human_monitor_command,
        "misc:HumanMonitorCommand",
        system=True,
        locked=False,
    ),
    Command("qmp_capabilities", _negotiated, "control:QmpCapabilities", locked=False),
    Command("query-commands", query_commands, locked=False),
    Command("query-qmp-schema", query_qmp_schema, locked=False),
    Command("query-version", query_version, locked=False),
    Command("quit", quit_, locked=False),
]
