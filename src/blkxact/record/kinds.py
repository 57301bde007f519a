"""The kinds of events in a record, and their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any, Final, get_args, get_type_hints

from blkxact.monitor.recorded import RecordedEvent
from blkxact.runtime.trace import TraceEvent

Event = TraceEvent | RecordedEvent

KINDS: Final[Mapping[str, type[Event]]] = {kind.__name__: kind for kind in get_args(Event)}


def as_json(event: Event) -> dict[str, Any]:
    """Return the members of an event; ``trace`` is its kind."""
    return {"trace": type(event).__name__, **asdict(event)}


def from_json(members: Mapping[str, Any]) -> Event:
    """Return the event that ``as_json`` made members of; raises ``ValueError`` with a reason."""
    rest = dict(members)
    name = rest.pop("trace", None)
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"there is no kind of event {name!r}")
    hints = _hints(kind.__name__)
    if rest.keys() - hints.keys():
        raise ValueError(f"{name} has no member '{min(rest.keys() - hints.keys())}'")
    for member, value in rest.items():
        if not _fits(value, hints[member]):
            raise ValueError(f"{name}: member '{member}' is of the wrong type")
    try:
        return kind(**rest)
    except TypeError:
        raise ValueError(f"{name}: a member is missing") from None


@cache
def _hints(name: str) -> dict[str, Any]:
    return get_type_hints(KINDS[name])


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if hint == list[list[int]]:
        return isinstance(value, list) and all(_is_range(one) for one in value)
    if hint == list[int]:
        return isinstance(value, list) and all(type(one) is int for one in value)
    options = get_args(hint) or (hint,)  # of a union, or the words of a Literal
    return type(value) in options or any(value == one for one in options)


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(one) is int for one in value)
