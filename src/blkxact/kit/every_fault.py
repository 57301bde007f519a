"""Runs one test many times: once to record what happens in it, and once for each fault.

A run that fails is reported under the name of the test and the fault (``FaultNames``). What passes
is one line of the test's own report.
"""

from __future__ import annotations

import errno as errnos
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, Final

import pytest
from _pytest.runner import runtestprotocol

from blkxact.runtime.points import POINTS

from .errors import KitError
from .markers import marked
from .sweep import DEFAULT_PATTERNS, Sweep

MOST: Final = 200
"""Faults of one test, unless the marker says otherwise."""


def read_arguments(
    *, points: str | Iterable[str] = DEFAULT_PATTERNS, errno: int = errnos.EIO, most: int = MOST
) -> tuple[tuple[str, ...], int, int]:
    """Return the marker's arguments, checked; raises ``KitError``."""
    patterns = (points,) if isinstance(points, str) else points
    if not isinstance(patterns, Iterable) or not all(isinstance(one, str) for one in patterns):
        raise KitError(f"points={points!r}: these are not patterns of names of points")
    patterns = tuple(patterns)
    for pattern in patterns:
        if not any(point.fails and fnmatchcase(name, pattern) for name, point in POINTS.items()):
            raise KitError(f"points={pattern!r}: at no point of such a name anything can fail")
    if errno not in errnos.errorcode:
        raise KitError(f"errno={errno!r}: this is no number of an error, as errno.EIO is")
    if not isinstance(most, int) or most < 1:
        raise KitError(f"most={most!r}: this is no number of faults")
    return patterns, errno, most


def run_with_every_fault(
    item: pytest.Item, nextitem: pytest.Item | None, marker: pytest.Mark, key: Any
) -> None:
    """Run ``item`` without faults, then with each; report all that fails."""
    patterns, errno, most = marked(read_arguments, marker)
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    record = item.stash[key] = Sweep(None, patterns, errno)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    faults = list(record.passings)[:most]
    failing: list[str] = []
    if all(report.passed for report in reports):
        missed = 0
        for fault in faults:
            sweep = Sweep(fault, patterns, errno)
            failed = _run_one(item, nextitem, key, sweep)
            missed += not sweep.struck
            failing += [fault] * bool(failed)
            for report in failed:
                report.fault = fault  # type: ignore[attr-defined]  # it takes what plugins add
                hook.pytest_runtest_logreport(report=report)
        text = f"{len(faults)} faults, {len(failing)} of which the test does not stand"
        if missed:
            text += f"; {missed} were not reached again"
        if len(faults) < len(record.passings):
            text += f"; {len(record.passings) - len(faults)} more were not tried (most=)"
        reports[1].sections.append(("every fault", "\n".join([text, *failing])))
    for report in reports:
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def _run_one(
    item: pytest.Item, nextitem: pytest.Item | None, key: Any, sweep: Sweep
) -> list[pytest.TestReport]:
    """Run the test once with a fault; return the reports of what failed."""
    item.stash[key] = sweep
    if hasattr(item, "_request"):
        item._initrequest()  # type: ignore[attr-defined]  # noqa: SLF001 - as pytest-rerunfailures
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    return [report for report in reports if report.failed]
