"""The fixture ``blkxact`` and its markers, for the tests of a backup tool (``docs/kit.md``).

Invariant: every run of pytest imports this module wherever blkxact is installed, so it loads
nothing else of blkxact before the fixture is used.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .emulator import Emulator
    from .sweep import Sweep

MARKERS = """\
blkxact(disks=(), emulate=None, completion_mode="individual", program="system", leftovers=()): how \
the emulator of the fixture blkxact is made
every_fault(points=None, errno=EIO, most=200): run the test once more for each fault of its own run
"""
_SWEEP: pytest.StashKey[Sweep] = pytest.StashKey()
"""Of a test with ``every_fault``: the record, or the fault, of this run."""
_FAILED = pytest.StashKey[bool]()
"""Whether the test itself has failed, or has not ended."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for line in MARKERS.splitlines():
        config.addinivalue_line("markers", line)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FaultNames())


class FaultNames:
    """Adds the fault to the name of a test that ``every_fault`` reports.

    With pytest-xdist the process that prints the reports does it: a worker may report nothing but
    the tests that it was given.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Do it before others see the report."""
        fault = getattr(report, "fault", None)
        if fault is not None:
            path, line, name = report.location
            report.nodeid = f"{report.nodeid}[{fault}]"
            report.location = (path, line, f"{name}[{fault}]")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test with ``every_fault`` once without, and once for each fault."""
    marker = item.get_closest_marker("every_fault")
    if marker is None or _mistake(item, marker) is not None:
        return None
    if "blkxact" not in getattr(item, "fixturenames", ()):
        return None  # the marker of its class or module
    from .every_fault import run_with_every_fault  # noqa: PLC0415 - see the invariant

    run_with_every_fault(item, nextitem, marker, _SWEEP)
    return True


def _mistake(item: pytest.Item, marker: pytest.Mark) -> str | None:
    """Return what is wrong with ``every_fault`` of a test."""
    from .errors import KitError  # noqa: PLC0415
    from .every_fault import read_arguments  # noqa: PLC0415
    from .markers import marked  # noqa: PLC0415

    if marker in item.own_markers and "blkxact" not in getattr(item, "fixturenames", ()):
        return "the test does not use the fixture blkxact"
    try:
        marked(read_arguments, marker)
    except KitError as error:
        return str(error)
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose marker ``every_fault`` has a mistake."""
    marker = item.get_closest_marker("every_fault")
    mistake = None if marker is None else _mistake(item, marker)
    if mistake is not None:
        pytest.fail(f"@pytest.mark.every_fault: {mistake}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether the test has failed: what it leaves behind then is of no interest.

    A test that is interrupted has a report of its setup only.
    """
    report = yield
    if call.when != "teardown":
        item.stash[_FAILED] = call.when == "setup" or report.failed
    return report


@pytest.fixture
def blkxact(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Emulator]:
    """Emulator of QEMU's block layer, on a socket; a test may leave nothing behind in it.

    Options: ``@pytest.mark.blkxact(disks=["vda"], emulate="10.0", completion_mode="grouped")``.
    """
    from .emulator import Emulator  # noqa: PLC0415 - see the invariant
    from .errors import KitError  # noqa: PLC0415
    from .markers import marked  # noqa: PLC0415
    from .options import read_options  # noqa: PLC0415

    try:
        options = marked(read_options, request.node.get_closest_marker("blkxact"))
    except KitError as error:
        pytest.fail(f"@pytest.mark.blkxact: {error}", pytrace=False)
    emulator = Emulator(tmp_path, options, request.node.stash.get(_SWEEP, None))
    yield emulator
    problems = emulator.close()
    if problems and not request.node.stash.get(_FAILED, False):
        lines = "\n".join(f"  - {problem}" for problem in problems)
        pytest.fail(f"after the test with the fixture blkxact:\n{lines}", pytrace=False)
