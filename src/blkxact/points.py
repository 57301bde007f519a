"""Named points: where something may fail, or where others may run in between.

An emulator has one ``Points``. A listener on a point is called each time it is reached; it can
raise what the point's line in ``POINTS`` allows, or keep whoever is there waiting. Tests, blkdebug
and fault plans all use these names. A point that nobody listens to costs one look at an attribute.

Invariants:

* Every point in the code is in ``POINTS``, and every one in ``POINTS`` is in the code
  (``tests/testing/test_points.py``).
* A listener that fails or waits where that is impossible is a bug of the listener: it gets
  ``PointMisuseError``, which is no ``OSError`` that a retry could swallow.

To add a point see ``docs/adding-a-fault-point.md``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .enums import BlkdebugEvent
from .errors import QmpError

Listener = Callable[[str, Mapping[str, Any]], Awaitable[None] | None]
"""Called with the point's name and the facts that its line in ``POINTS`` lists."""

Failure = type[OSError] | type[QmpError]


STORAGE_REQUESTS: Final = (
    *("open", "create", "unlink", "pread", "pwrite", "write_zeroes", "discard", "truncate"),
    *("flush", "map"),
)
"""Methods of ``Storage`` and ``StorageFile``."""
_REQUEST_FACTS: Final = ("path", "offset", "length")


class PointMisuseError(Exception):
    """A listener did what is impossible at its point."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point: when it is reached, the facts it gives, and what a listener may do there."""

    name: str
    when: str
    facts: tuple[str, ...]
    fails: tuple[Failure, ...] = ()
    waits: bool = False


POINTS: Final[Mapping[str, Point]] = {
    point.name: point
    for point in (
        # Commands and events
        Point("monitor.received", "a command is to be executed", ("command",), (QmpError,)),
        Point("monitor.executed", "a command has a result", ("command",)),
        Point("monitor.event", "an event is to be sent", ("event", "data")),
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
        Point("nbd.request", "before a request", ("export", "request"), (OSError,), waits=True),
        # Requests to files, which the storage of tests passes (``testing/memory_file.py``)
        *(
            Point(f"storage.{request}", "a request takes effect", _REQUEST_FACTS, (OSError,))
            for request in STORAGE_REQUESTS
        ),
        # Nodes. They are to be failed by rules of blkdebug, which decide on the request.
        *(
            Point(f"node.{event}", "a request passes", ("node",), waits=True)
            for event in sorted(BlkdebugEvent)
        ),
    )
}
"""All points, by name."""


class Points:
    """The points of one emulator, and who listens. It is false while nobody does."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    def __bool__(self) -> bool:
        """Return whether anybody listens to anything."""
        return bool(self._listeners)

    def listen(self, name: str, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` each time the point is reached; return the function that ends it.

        Several listeners are called in the order in which they came. Raises ``KeyError`` for a
        point that is not in ``POINTS``.
        """
        listeners = self._listeners.setdefault(POINTS[name].name, [])
        listeners.append(listener)

        def stop() -> None:
            listeners.remove(listener)
            if not listeners and self._listeners.get(name) is listeners:
                del self._listeners[name]

        return stop

    def hit(self, name: str, **facts: Any) -> None:
        """Pass a point where nobody can wait; raises what a listener raises."""
        if not self._listeners:
            return
        for listener in self._at(name):
            waiting = _call(listener, POINTS[name], facts)
            if waiting is not None:
                if hasattr(waiting, "close"):
                    waiting.close()  # a coroutine that will never run
                raise PointMisuseError(f"nobody can wait at {name}")

    async def reach(self, name: str, **facts: Any) -> None:
        """Pass a point where a listener may wait; raises what a listener raises."""
        for listener in self._at(name):
            waiting = _call(listener, POINTS[name], facts)
            if waiting is not None:
                try:
                    await waiting
                except (OSError, QmpError) as error:
                    _check_failure(POINTS[name], error)
                    raise

    def _at(self, name: str) -> Iterable[Listener]:
        return tuple(self._listeners.get(name, ()))


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
