"""Settling several parties: each is called, whatever the others raise.

Settling is the part of a transaction, of a group of jobs and of a completion object that must not
fail: a bitmap abdicates, a filter leaves the graph, a reference goes. What is called there does not
raise. If it does all the same, that is a bug, and one bug must not cost another disk its bitmap.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, Self

P = ParamSpec("P")


class Settling:
    """Makes every ``call``; what the calls raised is raised as one group at the end.

    ``what`` names the stage in the message of that group.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._bugs: list[Exception] = []

    def __enter__(self) -> Self:
        return self

    def call(
        self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> Exception | None:
        """Call ``function``; return what it raised, which is a bug."""
        try:
            function(*args, **kwargs)
        except Exception as bug:  # noqa: BLE001 - whatever it is, the others must still settle
            self._bugs.append(bug)
            return bug
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raise ``ExceptionGroup`` if any call raised and nothing else is being raised."""
        if self._bugs and error is None:
            raise ExceptionGroup(f"{self._what} raised", self._bugs)
