"""The run state of the machine: stop, cont, reset and their like.

QEMU's counterpart: ``qapi/run-state.json``, ``qapi/misc.json``; ``softmmu/runstate.c``,
``softmmu/cpus.c``, ``monitor/qmp-cmds.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .command import Command

if TYPE_CHECKING:
    from blkxact.block_layer import BlockLayer
    from blkxact.qapi.common import NoArguments


def query_status(layer: BlockLayer, args: NoArguments) -> dict[str, Any]:
    """query-status."""
    del args
    machine = layer.machine
    return {"running": machine.running, "singlestep": False, "status": str(machine.state)}


async def stop(layer: BlockLayer, args: NoArguments) -> None:
    """Stop the guest, and flush all disks, whether it ran or not (``do_vm_stop``)."""
    del args
    layer.machine.stop()
    await layer.flush_all()


async def cont(layer: BlockLayer, args: NoArguments) -> None:
    """Let the guest run again; errors that jobs were paused for are forgotten, the pause is not.

    Images that were inactive are activated; raises ``QmpError`` if one cannot be.
    """
    del args
    for job in layer.jobs.values():
        job.user_resumed()
    if layer.has("graph") and any(node.inactive for node in layer.graph.nodes.values()):
        from blkxact.blockdev.activity import activate  # noqa: PLC0415 - seldom

        await activate(layer.graph, layer.graph.tops())
    layer.machine.cont()


def system_reset(layer: BlockLayer, args: NoArguments) -> None:
    """system_reset: trays are closed, and a guest that does not run has not been started."""
    del args
    layer.machine.reset(layer.backends)
    layer.emit("RESET", {"guest": False, "reason": "host-qmp-system-reset"})


def system_powerdown(layer: BlockLayer, args: NoArguments) -> None:
    """system_powerdown: there is no guest that would do something about it."""
    del args
    layer.emit("POWERDOWN")


def nothing(layer: BlockLayer, args: Any) -> None:
    """Do what is to be done where there is no guest: nothing."""
    del layer, args


COMMANDS: Final = [
    Command("cont", cont, system=True),
    Command("query-status", query_status, system=True, locked=False),
    Command("set-action", nothing, "run_state:SetAction", system=True, locked=False),
    Command("stop", stop, system=True),
    Command("system_powerdown", system_powerdown, system=True),
    Command("system_reset", system_reset, system=True),
    Command(
        "watchdog-set-action", nothing, "run_state:WatchdogSetAction", system=True, locked=False
    ),
]
