"""The machine as management programs see it: its run state, its name, its size.

There is no guest. What the command line says of the machine is kept and reported; the run state is
what ``stop``, ``cont`` and ``system_reset`` make of it.

QEMU's counterpart: ``softmmu/runstate.c``, ``hw/core/machine-qmp-cmds.c``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

from blkxact.machine.options import MachineOptions

from .machine_types import ALIASES
from .qom_tree import Container, QomObject

if TYPE_CHECKING:
    from blkxact.block.backend import BlockBackend


class RunState(StrEnum):
    """RunState, as far as a machine without a guest gets."""

    PRELAUNCH = "prelaunch"
    RUNNING = "running"
    PAUSED = "paused"
    SAVE_VM = "save-vm"
    RESTORE_VM = "restore-vm"


class Machine:
    """One machine. ``emit`` sends an event."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self.options = MachineOptions()
        self.state = RunState.RUNNING
        self.leave_preconfig: Callable[[], Awaitable[None]] | None = None
        """Makes what waits for ``x-exit-preconfig``; None: all is made."""

    @property
    def type_name(self) -> str:
        """The type, by the name that stands for no other."""
        return ALIASES.get(self.options.type, self.options.type)

    @property
    def has_flash(self) -> bool:
        """Whether the board takes drives as its flash memory."""
        return self.type_name.startswith("pc-")

    def cpus(self) -> dict[str, QomObject]:
        """Return the processors as objects, by their names."""
        return {
            f"device[{index}]": Container({}, "qemu64-x86_64-cpu")
            for index in range(self.options.cpus)
        }

    @property
    def running(self) -> bool:
        """Whether the guest would run."""
        return self.state is RunState.RUNNING

    def stop(self, state: RunState = RunState.PAUSED) -> None:
        """Stop the guest, if it runs; ``state`` says what for."""
        if self.running:
            self.state = state
            self._emit("STOP")

    def cont(self) -> None:
        """Let the guest run, if it does not."""
        if not self.running:
            self.state = RunState.RUNNING
            self._emit("RESUME")

    def reset(self, backends: Iterable[BlockBackend]) -> None:
        """Begin again: a guest that does not run has not been started then."""
        close_trays(backends)
        if not self.running:
            self.state = RunState.PRELAUNCH


def close_trays(backends: Iterable[BlockBackend]) -> None:
    """Close the trays of drives, as a reset does: it sends no event."""
    for backend in backends:
        backend.tray_open = False
