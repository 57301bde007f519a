"""Named points: where something may fail, or where others may run in between.

An emulator has one ``Points``, that of its storage. A listener on a point is called each time it is
reached; it can raise what the point's line in ``POINTS`` allows, or keep whoever is there waiting.
Tests, blkdebug and fault plans all use these names. A point costs one look at an attribute
(``listening``) while nobody listens.

The facts are plain data. Those that do not change from run to run are the address of a passing,
and its count makes it unique: ``request.write target #3``.

Invariants:

* Every point in the code is in ``POINTS``, and every one in ``POINTS`` is in the code
  (``tests/testing/test_points.py``).
* A listener that fails or waits where that is impossible is a bug of the listener: it gets
  ``PointMisuseError``, which is no ``OSError`` that a retry could swallow.

To add a point see ``docs/adding-a-fault-point.md``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, NamedTuple

from blkxact.enums import BlkdebugEvent, BlkdebugIOType
from blkxact.errors import QmpError

Listener = Callable[[str, Mapping[str, Any]], Awaitable[None] | None]
"""Called with the point's name and the facts that its line in ``POINTS`` lists."""

DETAILS: Final = frozenset({"offset", "length", "size", "data", "monitor", "error", "client"})
"""Facts that are not part of an address."""

Failure = type[OSError] | type[QmpError]


STORAGE_REQUESTS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("open", "create", "unlink", "lock", "flush"), ("path",)),
    **dict.fromkeys(
        ("pread", "pwrite", "write_zeroes", "discard", "map"), ("path", "offset", "length")
    ),
    "truncate": ("path", "size"),
}
"""Methods of ``Storage`` and ``StorageFile`` that pass a point, and its facts.

``pwritev`` is a ``pwrite``; where anybody listens, a copy is the ``pread`` and ``pwrite`` that it
is made of.
"""

NODE_REQUESTS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("read", "write", "write-zeroes", "discard", "block-status"), ("node", "offset", "length")
    ),
    "flush": ("node",),
    "truncate": ("node", "size"),
}
"""Requests of a node, and the facts of their points."""


_RANGE: Final = ("node", "offset", "length")
_FAILED: Final = ("node", "request", "offset", "length", "error")
_NBD_REQUEST: Final = ("client", "export", "command", "offset", "length")


class PointMisuseError(Exception):
    """A listener did what is impossible at its point."""


class Point(NamedTuple):
    """One point: when it is reached, the facts it gives, and what a listener may do there."""

    name: str
    when: str
    facts: tuple[str, ...]
    fails: tuple[Failure, ...] = ()
    waits: bool = False

    def place(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the facts that say which of several things passes."""
        return {fact: facts[fact] for fact in self.facts if fact not in DETAILS}

    def address(self, facts: Mapping[str, Any]) -> str:
        """Return the name and the place, as one word each: ``job.step backup0``."""
        return " ".join([self.name, *map(str, self.place(facts).values())])


POINTS: Final[Mapping[str, Point]] = {
    point.name: point
    for point in (
        # Commands and events
        Point("command.execute", "a command is to be executed", ("command",), (QmpError,)),
        Point("command.executed", "a command has a result", ("command",)),
        Point("event.emit", "an event is to be sent to all monitors", ("event", "data")),
        # Monitors. A ConnectionError cuts the connection.
        Point("monitor.connected", "before the greeting", ("monitor",), (ConnectionError,)),
        Point(
            "monitor.received",
            "a command is read, and not executed",
            ("monitor", "command"),
            (QmpError, ConnectionError),
            waits=True,
        ),
        Point(
            "monitor.reply",
            "a command is executed, and its reply not sent",
            ("monitor", "command"),
            (ConnectionError,),
            waits=True,
        ),
        Point("monitor.answered", "the reply is sent", ("monitor", "command")),
        Point(
            "monitor.event",
            "an event is to be sent to one client; while a listener waits, no output follows",
            ("monitor", "event"),
            (ConnectionError,),
            waits=True,
        ),
        Point("monitor.disconnected", "the client has gone", ("monitor",)),
        # Transactions
        Point("transaction.prepare", "before an action's", ("action",), (QmpError,), waits=True),
        Point("transaction.commit", "before an action's", ("action",)),
        Point("transaction.abort", "before an action's", ("action",)),
        Point("transaction.clean", "before an action's", ("action",)),
        Point("transaction.settled", "all actions are clean", ("committed",)),
        Point(
            "transaction.finish", "before an action's", ("action",), (QmpError, OSError), waits=True
        ),
        Point("transaction.over", "all that it started is over", ("txn",)),
        # Jobs
        Point("job.start", "before the first piece", ("job",), (QmpError, OSError), waits=True),
        Point("job.step", "between two pieces", ("job",), (QmpError, OSError), waits=True),
        Point("job.paused", "it rests, asked to or while its nodes are drained", ("job",)),
        Point("job.resumed", "it goes on", ("job",), waits=True),
        Point("job.before-flush", "all is copied", ("job",), (OSError,), waits=True),
        Point("job.ran", "the work is done", ("job",), (QmpError, OSError), waits=True),
        Point("job.prepare", "its group is complete", ("job",), (QmpError, OSError), waits=True),
        Point("job.commit", "before the job's", ("job",)),
        Point("job.abort", "before the job's", ("job",)),
        Point("job.clean", "before the job's", ("job",)),
        Point("job.conclude", "settled, before its events", ("job",)),
        # Bitmaps
        Point("bitmap.freeze", "a job is to claim it", ("node", "bitmap"), (QmpError,)),
        Point("bitmap.abdicated", "it has forgotten what is copied", ("node", "bitmap")),
        Point("bitmap.reclaimed", "it has everything back", ("node", "bitmap")),
        Point("bitmap.load", "those of an image", ("node",), (QmpError,), waits=True),
        Point("bitmap.store", "those of an image", ("node",), (QmpError, OSError), waits=True),
        # Exports
        Point("export.add", "the export is to be made", ("export",), (QmpError,)),
        Point("export.deleted", "the export is gone", ("export",)),
        # Clients of the NBD server, by number. A ConnectionError cuts the connection.
        Point("nbd.connected", "before the greeting", ("client",), (ConnectionError,)),
        Point("nbd.handshake", "before the next options are read", ("client",), (ConnectionError,)),
        Point("nbd.transmission", "the handshake is over", ("client", "export")),
        Point("nbd.request", "before a request", _NBD_REQUEST, (OSError,), waits=True),
        Point("nbd.reply", "a request is done", _NBD_REQUEST, (ConnectionError,), waits=True),
        Point("nbd.disconnected", "the client has gone", ("client",)),
        # Connections to NBD servers
        Point("server.connect", "before a try", ("node",), (QmpError,), waits=True),
        # Requests of the guest and of exports that failed
        Point("backend.failed", "an error is to be reported", _FAILED),
        # Requests: of nodes, of blkdebug nodes once these have cut them, of files
        *(
            Point(f"request.{request}", "a request is counted", facts, (OSError,), waits=True)
            for request, facts in NODE_REQUESTS.items()
        ),
        *(
            Point(
                f"blkdebug.{request}", "a piece of a request passes", _RANGE, (OSError,), waits=True
            )
            for request in BlkdebugIOType
        ),
        *(
            Point(
                f"storage.{request}",
                "a request takes effect",
                facts,
                (OSError,),
                waits=request not in ("lock", "unlink"),
            )
            for request, facts in STORAGE_REQUESTS.items()
        ),
        # Steps of formats, where a blkdebug node is in the way; its rules fail the requests.
        *(
            Point(f"node.{event}", "a request passes", ("node",), waits=True)
            for event in sorted(BlkdebugEvent)
        ),
    )
}
"""All points, by name."""


class Points:
    """The points of one emulator, and who listens."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}
        self.listening = False
        """Whether anybody listens to anything."""

    def listen(self, name: str, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` each time the point is reached; return the function that ends it.

        Several listeners are called in the order in which they came. Raises ``KeyError`` for a
        point that is not in ``POINTS``.
        """
        listeners = self._listeners.setdefault(POINTS[name].name, [])
        listeners.append(listener)
        self.listening = True

        def stop() -> None:
            listeners.remove(listener)
            if not listeners and self._listeners.get(name) is listeners:
                del self._listeners[name]
            self.listening = bool(self._listeners)

        return stop

    def hit(self, name: str, **facts: Any) -> None:
        """Pass a point where nobody can wait; raises what a listener raises."""
        if not self.listening:
            return
        for listener in self._at(name):
            waiting = _call(listener, POINTS[name], facts)
            if waiting is not None:
                if hasattr(waiting, "close"):
                    waiting.close()  # a coroutine that will never run
                raise PointMisuseError(f"nobody can wait at {name}")

    def cuts(self, name: str, **facts: Any) -> bool:
        """Pass a point of a connection; return whether a listener cuts it (``ConnectionError``)."""
        try:
            self.hit(name, **facts)
        except ConnectionError:
            return True
        return False

    async def reach(self, name: str, **facts: Any) -> None:
        """Pass a point where a listener may wait; raises what a listener raises."""
        waiting = self.begin(name, **facts)
        if waiting is not None:
            await waiting

    def begin(self, name: str, **facts: Any) -> Coroutine[Any, Any, None] | None:
        """Pass a point; return what is left of that if a listener waits.

        Raises what a listener raises, or the coroutine does.
        """
        listeners = self._at(name)
        for number, listener in enumerate(listeners, 1):
            waiting = _call(listener, POINTS[name], facts)
            if waiting is not None:
                return _finish(waiting, listeners[number:], POINTS[name], facts)
        return None

    def _at(self, name: str) -> tuple[Listener, ...]:
        return tuple(self._listeners.get(name, ()))


async def _finish(
    waiting: Awaitable[None], rest: tuple[Listener, ...], point: Point, facts: Mapping[str, Any]
) -> None:
    """Await a listener, then call the rest."""
    try:
        await waiting
    except (OSError, QmpError) as error:
        _check_failure(point, error)
        raise
    for listener in rest:
        more = _call(listener, point, facts)
        if more is not None:
            await _finish(more, (), point, facts)


def _call(listener: Listener, point: Point, facts: Mapping[str, Any]) -> Awaitable[None] | None:
    assert tuple(facts) == point.facts, f"{point.name} gives {tuple(facts)}"
    try:
        return listener(point.name, facts)
    except (OSError, QmpError) as error:
        _check_failure(point, error)
        raise


def _check_failure(point: Point, error: OSError | QmpError) -> None:
    if not isinstance(error, point.fails):
        raise PointMisuseError(f"{type(error).__name__} is not possible at {point.name}") from error
