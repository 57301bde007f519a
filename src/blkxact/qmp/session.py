"""One client's conversation: bytes in, requests and bytes out.

The session greets, negotiates, holds requests back and puts replies and events in their order; it
knows no socket and runs no command. Its user

1. gives it what was read (``receive``) while ``wants_input``,
2. while it ``has_work``, calls ``next_request`` and answers what it returns with ``complete`` or
   ``fail``, at once or later,
3. sends what ``take_output`` gives.

Invariants:

* In-band requests run one at a time, in the order they came; so do the errors among them. The next
  is given out only when the last was answered.
* Before and without the ``oob`` capability nothing is read ahead: a message is looked at when the
  one before it was answered, so ``qmp_capabilities`` governs the very next byte.
* With ``oob``, requests are read ahead up to ``MAX_QUEUE`` and out-of-band ones overtake. When the
  queue is full, nothing more is read until the next in-band request begins.
* A call takes at most a few milliseconds. A long message is read in several (``next_request``).

QEMU's counterpart: ``monitor/qmp.c``, ``qapi/qmp-dispatch.c``; the QMP specification. Of several
faults in one request QEMU reports any, we report the first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, NamedTuple, Protocol

from blkxact.errors import ErrorClass, QmpError
from blkxact.runtime.release import DEFAULT_RELEASE, Release

from .json_stream import NEED_DATA, NEED_TURN, JsonStream
from .json_text import encode
from .request import (
    LARGE,
    NO_ID,
    Message,
    Request,
    check_envelope,
    id_fits,
    requested_capabilities,
)

MAX_QUEUE = 8
"""In-band requests that wait while one runs (QMP_REQ_QUEUE_LEN_MAX)."""


class Command(Protocol):
    """What a session asks of an entry in the table of commands."""

    @property
    def allow_oob(self) -> bool:
        """Whether it may be run out of band."""


class Dispatcher(Protocol):
    """What runs commands. It checks their arguments; sessions do not."""

    @property
    def is_ending(self) -> bool:
        """Whether the emulator shuts down."""

    def lookup(self, name: str) -> Command | None:
        """Return the command of that name, if there is one."""

    def execute(
        self, name: str, arguments: dict[str, Any] | None, *, oob: bool, client: Any
    ) -> Any | Awaitable[Any]:
        """Run a command and return its result, or an awaitable of it if it has to wait.

        ``client`` is the connection that it came from.

        A result is the value of ``return``; None stands for an empty object. Raises ``QmpError``
        (or the awaitable does) when the command is refused.
        """


class Mode(Enum):
    """How far a session has come."""

    NEGOTIATION = "capabilities negotiation"
    COMMAND = "command"
    COMMAND_OOB = "command, with the oob capability"


class Rules(NamedTuple):
    """What a mode allows."""

    commands: bool
    """All commands, and events; else only ``qmp_capabilities``."""
    oob: bool
    """``exec-oob``."""
    queue: int
    """Requests that may wait for their turn. Without ``oob`` nothing is read ahead."""


RULES = {
    Mode.NEGOTIATION: Rules(commands=False, oob=False, queue=0),
    Mode.COMMAND: Rules(commands=True, oob=False, queue=0),
    Mode.COMMAND_OOB: Rules(commands=True, oob=True, queue=MAX_QUEUE),
}


def greeting(package: str, release: Release = DEFAULT_RELEASE) -> dict[str, Any]:
    """Return what a server says first (QMP specification section 2.2)."""
    return {"QMP": {"version": version(package, release), "capabilities": ["oob"]}}


def version(package: str, release: Release = DEFAULT_RELEASE) -> dict[str, Any]:
    """Return VersionInfo."""
    return {"qemu": release.members(), "package": package}


class Session:
    """The state of one conversation."""

    def __init__(
        self,
        lookup: Callable[[str], Command | None],
        package: str,
        encode: Callable[[Any], bytes] = encode,
        *,
        release: Release = DEFAULT_RELEASE,
    ) -> None:
        self._encode = encode
        self._empty_reply = encode({"return": {}})
        self._lookup = lookup
        self._mode = Mode.NEGOTIATION
        self._rules = RULES[self._mode]
        self._stream = JsonStream()
        self._starved = True
        """Whether the stream has no whole message left."""
        self._midway = False
        self._waiting: deque[Message] = deque()
        self._running: Request | None = None
        self._output: list[bytes] = []
        self.output_size = 0
        """Bytes that ``take_output`` would give."""
        self._weight = 0
        """Of the messages that are not answered."""
        self.on_answered: Callable[[Any, QmpError | None], None] | None = None
        """Called with each message that is answered here, and the refusal if it is one."""
        self._send(self._encode(greeting(package, release)))

    # What the user of the session may ask.

    @property
    def mode(self) -> Mode:
        """How far the negotiation has come."""
        return self._mode

    @property
    def wants_events(self) -> bool:
        """Whether the client is to get events."""
        return self._rules.commands

    @property
    def has_work(self) -> bool:
        """Whether ``next_request`` can get on."""
        if self._running is None:
            return not self._starved or bool(self._waiting)
        return not self._starved and len(self._waiting) < self._rules.queue

    @property
    def wants_input(self) -> bool:
        """Whether to read more; if not, the next answer may change it."""
        return self._starved and (self._running is None or len(self._waiting) < self._rules.queue)

    @property
    def midway(self) -> bool:
        """Whether ``next_request`` stopped within a message, so that others may have their turn."""
        return self._midway

    @property
    def held(self) -> int:
        """Bytes of memory, roughly, that the client's input and output take."""
        return self._stream.held + self._weight + self.output_size

    @property
    def idle(self) -> bool:
        """Whether all that came is answered, but for requests out of band."""
        return self._starved and self._running is None and not self._waiting

    # What the user of the session does.

    def receive(self, data: bytes) -> None:
        """Take what was read."""
        self._stream.feed(data)
        self._starved = False

    def next_request(self) -> Request | None:
        """Look at the next message; return the command in it if it is to be run now.

        It may also have been refused, or put behind others, or there was no whole message, or it is
        a long one (``midway``).
        """
        if self._waiting and self._running is None:
            message = self._waiting.popleft()
        elif not self.has_work:
            return None
        else:
            received = self._read()
            if received is None:
                return None
            message = received
            self._weight += message.weight
            if self._running is not None and not message.is_out_of_band:
                self._waiting.append(message)
                return None
        request = self._admit(message)
        if request is not None and not request.oob:
            self._running = request
        return request

    def complete(self, request: Request, result: Any) -> None:
        """Send the result of a request; None stands for an empty object."""
        self._settle(request)
        if request.id is not NO_ID:
            line = self._encode({"return": {} if result is None else result, "id": request.id})
        elif result is None or result == {}:
            line = self._empty_reply
        else:
            line = self._encode({"return": result})
        self._send(line)

    def fail(self, request: Request, error: QmpError) -> None:
        """Send the refusal of a request."""
        self._settle(request)
        self._refuse(request.id, error)

    def emit(self, event: bytes) -> None:
        """Send an event, already encoded, after what was sent before."""
        self._send(event)

    def take_output(self) -> bytes:
        """Return what is to be sent now."""
        output = self._output
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        self.output_size = 0
        return data

    def discard(self) -> None:
        """Forget all input and output: the client is gone. What runs may still be answered."""
        self._stream = JsonStream()
        self._starved = True
        self._midway = False
        self._waiting.clear()
        self.take_output()

    def _send(self, line: bytes) -> None:
        self._output.append(line)
        self.output_size += len(line)

    def _settle(self, request: Request) -> None:
        self._weight -= request.weight
        if request is self._running:
            self._running = None

    def _refuse(self, id_: Any, error: QmpError) -> None:
        reply: dict[str, Any] = {} if id_ is NO_ID else {"id": id_}
        reply["error"] = error.as_reply()
        self._send(self._encode(reply))

    def _read(self) -> Message | None:
        """Return the next message, if there is a whole one and it is read to its end."""
        stream = self._stream
        self._midway = False
        try:
            value = stream.try_next()
        except QmpError as error:
            return Message(None, 0, error.desc)
        if value is NEED_TURN:
            self._midway = True
            return None
        self._starved = stream.exhausted
        return None if value is NEED_DATA else Message(value, stream.weight)

    def _admit(self, message: Message) -> Request | None:
        """Return the request in a message, or answer it here."""
        value = message.value
        id_ = value.get("id", NO_ID) if isinstance(value, dict) else NO_ID
        if message.weight > LARGE and not id_fits(id_):
            self._weight -= message.weight
            self._refuse(NO_ID, QmpError("QMP input member 'id' is too large"))
            return None
        try:
            request = check_envelope(message, allow_oob=self._rules.oob)
            if request.name != "qmp_capabilities":
                self._check_command(request)
                return request
            self._negotiate(request)
        except QmpError as error:
            self._weight -= message.weight
            self._refuse(id_, error)
            self._note_answer(value, error)
        else:
            self.complete(request, None)
            self._note_answer(value, None)
        return None

    def _note_answer(self, value: Any, error: QmpError | None) -> None:
        if self.on_answered is not None:
            self.on_answered(value, error)

    def _check_command(self, request: Request) -> None:
        if not self._rules.commands:
            raise QmpError(
                "Expecting capabilities negotiation with 'qmp_capabilities'",
                ErrorClass.COMMAND_NOT_FOUND,
            )
        command = self._lookup(request.name)
        if command is None:
            raise QmpError(
                f"The command {request.name} has not been found", ErrorClass.COMMAND_NOT_FOUND
            )
        if request.oob and not command.allow_oob:
            raise QmpError(f"The command {request.name} does not support OOB")

    def _negotiate(self, request: Request) -> None:
        """Run ``qmp_capabilities``."""
        if request.oob:
            raise QmpError("The command qmp_capabilities does not support OOB")
        capabilities = requested_capabilities(request.arguments)
        if self._mode is not Mode.NEGOTIATION:
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored",
                ErrorClass.COMMAND_NOT_FOUND,
            )
        self._mode = Mode.COMMAND_OOB if "oob" in capabilities else Mode.COMMAND
        self._rules = RULES[self._mode]
