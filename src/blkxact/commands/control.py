"""The monitor itself, and the machine that is not there.

QEMU's counterpart: ``qapi/control.json``, ``qapi/misc.json``, ``qapi/run-state.json``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact import PACKAGE
from blkxact.block_layer import BlockLayer
from blkxact.qapi.common import NoArguments
from blkxact.qapi.misc import HumanMonitorCommand
from blkxact.qmp.session import version

from .command import Command


def query_version(layer: BlockLayer, args: NoArguments) -> dict[str, Any]:
    """query-version."""
    del layer, args
    return version(PACKAGE)


def query_commands(layer: BlockLayer, args: NoArguments) -> list[dict[str, str]]:
    """query-commands."""
    del layer, args
    from . import COMMANDS as TABLE  # noqa: PLC0415 - the table holds this handler

    return [{"name": name} for name in TABLE]


def query_qmp_schema(layer: BlockLayer, args: NoArguments) -> list[dict[str, Any]]:
    """query-qmp-schema."""
    del layer, args
    from blkxact.qapi.introspect import schema  # noqa: PLC0415 - few clients ask; it takes long

    from . import COMMANDS as TABLE  # noqa: PLC0415 - the table holds this handler

    return schema({command.name: command.model for command in TABLE.values()})


def query_name(layer: BlockLayer, args: NoArguments) -> dict[str, Any]:
    """query-name: an emulator has none."""
    del layer, args
    return {}


def query_status(layer: BlockLayer, args: NoArguments) -> dict[str, Any]:
    """query-status: the guest runs unless it was stopped."""
    del args
    status = "running" if layer.running else "paused"
    return {"running": layer.running, "singlestep": False, "status": status}


def stop(layer: BlockLayer, args: NoArguments) -> None:
    """Stop the guest; its requests come through the monitor, so only the status changes."""
    del args
    if layer.running:
        layer.running = False
        layer.emit("STOP")


def cont(layer: BlockLayer, args: NoArguments) -> None:
    """Let the guest run again."""
    del args
    if not layer.running:
        layer.running = True
        layer.emit("RESUME")


def quit_(layer: BlockLayer, args: NoArguments) -> None:
    """End the process in good order, after the reply."""
    del args
    layer.on_quit()


async def human_monitor_command(layer: BlockLayer, args: HumanMonitorCommand) -> str:
    """human-monitor-command: the guest's requests (qemu-io) and a few queries for people."""
    from blkxact.hmp import run  # noqa: PLC0415 - programs that need no guest do not load it

    def query(name: str) -> Any:
        from . import COMMANDS as TABLE  # noqa: PLC0415 - the table holds this handler

        return TABLE[name].handler(layer, TABLE[name].model())

    return await run(layer, args.command_line, query=query, lock=layer.lock)


COMMANDS: Final = [
    Command("cont", cont),
    Command("human-monitor-command", human_monitor_command, HumanMonitorCommand, locked=False),
    Command("query-commands", query_commands, locked=False),
    Command("query-name", query_name, locked=False),
    Command("query-qmp-schema", query_qmp_schema, locked=False),
    Command("query-status", query_status, locked=False),
    Command("query-version", query_version, locked=False),
    Command("quit", quit_, locked=False),
    Command("stop", stop),
]
