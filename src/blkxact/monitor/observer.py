"""Reports what the clients of the monitors send and get, to a ``Trace``: for a record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from blkxact.errors import QmpError
from blkxact.monitor.recorded import (
    ClientConnected,
    ClientGone,
    CommandAnswered,
    CommandReceived,
    EventEmitted,
    RecordedEvent,
)
from blkxact.runtime.events import Event

HIDDEN: Final = "(not recorded)"
_SECRET_MEMBERS: Final = frozenset({"data", "password", "key"})
"""Members of an object of type secret, and of passwords."""


class Observer:
    """Numbers clients and commands, and calls ``report``; ``shorten`` bounds JSON values."""

    def __init__(
        self, report: Callable[[RecordedEvent], None], shorten: Callable[[Any], Any]
    ) -> None:
        self._report = report
        self._shorten = shorten
        self._clients: dict[object, int] = {}
        self._last_client = 0
        self._last_command = 0

    def connected(self, client: object, address: str) -> None:
        """Give a client the next number."""
        self._last_client += 1
        self._clients[client] = self._last_client
        self._report(ClientConnected(self._last_client, address))

    def gone(self, client: object) -> None:
        """Forget a client."""
        number = self._clients.pop(client, None)
        if number is not None:
            self._report(ClientGone(number))

    async def executing(
        self, client: object, command: str, arguments: Any, result: Awaitable[Any]
    ) -> Any:
        """Report a command and its reply, which is what ``result`` returns or raises."""
        number, who = self._received(client, command, arguments)
        try:
            value = await result
        except Exception as error:
            text = error.desc if isinstance(error, QmpError) else repr(error)
            self._report(CommandAnswered(who, number, command, None, text))
            raise
        self._report(CommandAnswered(who, number, command, self._shorten(value)))
        return value

    def answered(self, client: object, message: Any, error: QmpError | None) -> None:
        """Report a message that the session answered itself: negotiation, or a refusal."""
        members = message if isinstance(message, dict) else {}
        name = members.get("execute", members.get("exec-oob"))
        command = name if isinstance(name, str) else "(no command)"
        number, who = self._received(client, command, members.get("arguments"))
        text = None if error is None else error.desc
        self._report(CommandAnswered(who, number, command, None, text))

    def event(self, event: Event, clients: Iterable[object]) -> None:
        """Report an event and who gets it."""
        numbers = [self._clients[client] for client in clients if client in self._clients]
        self._report(EventEmitted(event["event"], self._shorten(event.get("data")), numbers))

    def _received(self, client: object, command: str, arguments: Any) -> tuple[int, int]:
        self._last_command += 1
        who = self._clients.get(client, 0)
        try:
            shown = self._shorten(without_secrets(command, arguments))
        except RecursionError:
            shown = HIDDEN
        self._report(CommandReceived(who, self._last_command, command, shown))
        return self._last_command, who


def without_secrets(command: str, arguments: Any) -> Any:
    """Return the arguments of a command without what is secret in them."""
    if not isinstance(arguments, dict):
        return arguments
    if command == "object-add":
        return _masked(arguments)
    line = arguments.get("command-line")
    if command == "human-monitor-command" and isinstance(line, str) and "object_add" in line:
        return {**arguments, "command-line": HIDDEN}
    return {name: HIDDEN if name == "password" else value for name, value in arguments.items()}


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: HIDDEN if name in _SECRET_MEMBERS else _masked(one) for name, one in value.items()
        }
    return value
