"""The one table of QMP commands, and how a command is executed.

A command is a name, the model of its arguments and a handler ``handler(layer, args) -> result``.
A plain function answers at once; a coroutine function may wait. Handlers run one at a time under
the layer's lock, in whatever session they came in, but for those that say ``locked=False``.

To add a command see ``docs/adding-a-command.md``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from inspect import iscoroutinefunction
from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.options import CommandSet
from blkxact.qapi.by_release import ByRelease
from blkxact.qapi.validation import validate
from blkxact.qapi.versions import exists
from blkxact.release import DEFAULT_RELEASE, Release

from . import (
    block,
    chain,
    command_line,
    control,
    descriptors,
    device,
    export,
    job,
    machine,
    medium,
    mirror,
    nodes,
    qom,
    qom_types,
    query,
    reopen,
    run_state,
    snapshot,
    trace_event,
    transaction,
    without_guest,
    yank,
)
from .command import Client, Command
from .without_guest import WITHOUT_GUEST

_MODULES: Final = (
    block,
    chain,
    command_line,
    control,
    descriptors,
    device,
    export,
    job,
    machine,
    medium,
    nodes,
    mirror,
    qom,
    qom_types,
    query,
    reopen,
    run_state,
    snapshot,
    trace_event,
    transaction,
    without_guest,
    yank,
)

COMMANDS: Final[dict[str, Command]] = {
    command.name: command for module in _MODULES for command in module.COMMANDS
}


def commands_of(
    command_set: CommandSet, release: Release = DEFAULT_RELEASE
) -> Mapping[str, Command]:
    """Return the commands that a client of such a program finds."""
    known = {name: one for name, one in COMMANDS.items() if exists(name, release)}
    match command_set:
        case CommandSet.SYSTEM:
            return known
        case CommandSet.STORAGE_DAEMON:
            return {name: one for name, one in known.items() if not one.system}
    return {name: one for name, one in known.items() if name not in WITHOUT_GUEST}


SERVED_DURING_SHUTDOWN: Final = frozenset(
    {name for name in COMMANDS if name.startswith("query-")} | {"quit", "yank"}
)
"""What is still executed while the emulator shuts down, which may take as long as a server does."""


def load_everything() -> None:
    """Load the modules that commands need: later there may be no file descriptor to do it with.

    Making the first validator loads a module of pydantic's.
    """
    import blkxact.hmp  # noqa: PLC0415 - only who runs a daemon needs it
    import blkxact.qapi.introspect  # noqa: F401, PLC0415

    validate(None, {})


class Dispatcher:
    """Executes commands on one block layer; what the sessions of its monitors call."""

    def __init__(self, layer: BlockLayer) -> None:
        self._layer = layer
        self._commands = commands_of(layer.command_set, layer.release)
        self._by_release = ByRelease(layer.release)

    @property
    def is_ending(self) -> bool:
        """Whether the emulator shuts down."""
        return self._layer.shutting_down

    def lookup(self, name: str) -> Command | None:
        """Return the command of that name."""
        return self._commands.get(name)

    def execute(
        self,
        name: str,
        arguments: dict[str, Any] | None,
        *,
        oob: bool = False,
        client: Client | None = None,
    ) -> Any | Awaitable[Any]:
        """Execute a command that ``lookup`` knows; ``client`` is who sent it.

        Returns the result, or an awaitable of it. Raises ``QmpError``, or the awaitable does.
        """
        command = self._commands[name]
        self._check_shutdown(command)
        self._layer.points.hit("command.execute", command=name)
        args = arguments or {}
        if command.gen:
            args = self._by_release.validate(command.model, args)
        if command.from_client:
            return self._answer(command, command.handler(self._layer, args, client))
        if iscoroutinefunction(command.handler):
            return self._wait_for(command, args)
        if command.locked and not oob and self._layer.lock.locked():
            return self._wait_for(command, args)
        return self._answer(command, command.handler(self._layer, args))

    async def _wait_for(self, command: Command, args: Any) -> Any:
        if command.locked:
            async with self._layer.lock:
                self._check_shutdown(command)
                result = command.handler(self._layer, args)
                if iscoroutinefunction(command.handler):
                    result = await result
        else:
            result = await command.handler(self._layer, args)
        return self._answer(command, result)

    def _answer(self, command: Command, result: Any) -> Any:
        self._layer.points.hit("command.executed", command=command.name)
        return {} if result is None else self._by_release.result(command.name, result)

    def _check_shutdown(self, command: Command) -> None:
        if command.name not in SERVED_DURING_SHUTDOWN:
            self._layer.check_running()


__all__ = ["COMMANDS", "Command", "Dispatcher"]
