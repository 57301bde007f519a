"""The one table of QMP commands, and how a command is executed.

A command is a name, the model of its arguments and a handler ``handler(layer, args) -> result``.
A plain function answers at once; a coroutine function may wait. Handlers run one at a time under
the layer's lock, in whatever session they came in, but for those that say ``locked=False``.

To add a command see ``docs/adding-a-command.md``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cache, cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from blkxact.errors import QmpError
from blkxact.machine.options import CommandSet
from blkxact.qapi.versions import absent_members, exists, mentions, reword
from blkxact.runtime.release import DEFAULT_RELEASE, Release

from .command import Client, Command
from .index import INDEX

if TYPE_CHECKING:
    from blkxact.block_layer import BlockLayer
    from blkxact.qapi.by_release import ByRelease

_WITHOUT_GUEST: Final = "without_guest"
"""The module of the commands that are known by name only."""
_TESTING: Final = "testing"
"""The module of the commands that only a daemon with ``--testing`` has."""
_RECORDING: Final = "recording"
"""The module of those that only a daemon with ``--record`` has."""
_ON_REQUEST: Final = (_TESTING, _RECORDING)
"""Modules that a daemon has only with an option of blkxact's own."""
_MODULE_OF: Final = {name: module for module, names in INDEX.items() for name in names.split()}


@cache
def _load(module: str) -> dict[str, Command]:
    """Return the commands of one module."""
    commands = import_module(f"{__name__}.{module}").COMMANDS
    return {command.name: command for command in commands}


def _all_modules() -> list[str]:
    return [*INDEX, _WITHOUT_GUEST, *_ON_REQUEST]


class CommandTable(Mapping[str, Command]):
    """The commands by name. A module is loaded when one of its commands is first looked for.

    ``release`` None: those of all releases. ``has`` says which of all commands are in the table, by
    their module.
    """

    def __init__(
        self,
        release: Release | None = None,
        has: Callable[[str, Command], bool] = lambda module, _command: module not in _ON_REQUEST,
    ) -> None:
        self._release = release
        self._has = has
        self._found: dict[str, Command] = {}

    def __getitem__(self, name: str) -> Command:
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._find(name)
        return found

    def _find(self, name: str) -> Command:
        known = _MODULE_OF.get(name)
        modules = [_WITHOUT_GUEST, *INDEX, *_ON_REQUEST] if known is None else [known]
        for module in modules:
            command = _load(module).get(name)
            if command is not None and self._is_in(module, command):
                return command
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        for module in _all_modules():
            for name, command in _load(module).items():
                if self._is_in(module, command):
                    yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _is_in(self, module: str, command: Command) -> bool:
        release = self._release
        return (release is None or exists(command.name, release)) and self._has(module, command)


COMMANDS: Final = CommandTable()


def commands_of(
    command_set: CommandSet,
    release: Release = DEFAULT_RELEASE,
    *,
    testing: bool = False,
    recording: bool = False,
) -> Mapping[str, Command]:
    """Return the commands that a client of such a program finds."""

    def has(module: str, command: Command) -> bool:
        if module in _ON_REQUEST:
            return testing if module == _TESTING else recording
        match command_set:
            case CommandSet.SYSTEM:
                return True
            case CommandSet.STORAGE_DAEMON:
                return not command.system
        return module != _WITHOUT_GUEST

    return CommandTable(release, has)


def commands_for(layer: BlockLayer) -> Mapping[str, Command]:
    """Return the commands that a client of this emulator finds."""
    return commands_of(
        layer.command_set,
        layer.release,
        testing=layer.test_control is not None,
        recording=layer.record_path is not None,
    )


def _is_served_during_shutdown(name: str) -> bool:
    """Return whether a command is executed while the emulator shuts down.

    That may take as long as a server does.
    """
    return name.startswith("query-") or name in ("quit", "yank")


class Dispatcher:
    """Executes commands on one block layer; what the sessions of its monitors call."""

    def __init__(self, layer: BlockLayer) -> None:
        self._layer = layer
        self._commands = commands_for(layer)
        self._absent = absent_members(layer.release)
        """The names of members that some results have, but not in this release."""

    @property
    def is_ending(self) -> bool:
        """Whether the emulator shuts down."""
        return self._layer.shutting_down

    @cached_property
    def _by_release(self) -> ByRelease:
        from blkxact.qapi.by_release import of_release  # noqa: PLC0415 - it loads the schema

        return of_release(self._layer.release)

    def _validated(self, model: Any, arguments: dict[str, Any]) -> Any:
        """Return the instance of ``model``; raises ``QmpError``."""
        if model is None and not arguments:
            return None
        return self._by_release.validate(model, arguments)

    def _result(self, name: str, result: Any) -> Any:
        """Return a result as the release has it."""
        if "_by_release" not in self.__dict__ and not mentions(result, self._absent):
            return result  # the schema need not be loaded to see that nothing is left out
        return self._by_release.result(name, result)

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
        if self._layer.machine.leave_preconfig is not None:
            self._check_preconfig(name, client)
        self._layer.points.hit("command.execute", command=name)
        args = arguments or {}
        if command.gen:
            args = self._validated(command.model, args)
        if command.from_client:
            return self._answer(command, command.handler(self._layer, args, client))
        if command.waits:
            return self._wait_for(command, args)
        if command.locked and not oob and self._layer.lock.locked():
            return self._wait_for(command, args)
        try:
            result = command.handler(self._layer, args)
        except QmpError as error:
            reword(command.name, error, self._layer.release)
            raise
        return self._answer(command, result)

    async def _wait_for(self, command: Command, args: Any) -> Any:
        try:
            result = await self._in_turn(command, args)
        except QmpError as error:
            reword(command.name, error, self._layer.release)
            raise
        return self._answer(command, result)

    async def _in_turn(self, command: Command, args: Any) -> Any:
        if not command.locked:
            return await command.handler(self._layer, args)
        async with self._layer.lock:
            self._check_shutdown(command)
            result = command.handler(self._layer, args)
            return await result if command.waits else result

    def _answer(self, command: Command, result: Any) -> Any:
        self._layer.points.hit("command.executed", command=command.name)
        return {} if result is None else self._result(command.name, result)

    def _check_preconfig(self, name: str, client: Client | None) -> None:
        """Refuse what has to wait for the machine; the human monitor refuses its own commands."""
        from .preconfig import PERMITTED  # noqa: PLC0415 - seldom asked

        if name in PERMITTED or (name == "human-monitor-command" and client is None):
            return
        when = "after machine initialization has completed"
        raise QmpError(f"The command '{name}' is permitted only {when}")

    def _check_shutdown(self, command: Command) -> None:
        if not _is_served_during_shutdown(command.name):
            self._layer.check_running()


__all__ = ["COMMANDS", "Command", "Dispatcher"]
