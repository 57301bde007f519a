"""Fixtures for tests of blkxact and of what is built upon it.

``sim_seed``
    The seed of a simulated run (``blkxact.testing``): always the same for the same test, unless
    ``--sim-seed`` says otherwise (``--sim-seed=random`` takes a new one). A failing test prints how
    to run it again.

``blkxact``
    An emulator for the tests of a backup tool (``blkxact.kit``).

Invariant: the plugin is imported by every run of pytest wherever blkxact is installed, so it
imports nothing of blkxact before a fixture is used.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Generator

import pytest

pytest_plugins = ("blkxact.kit.pytest_plugin",)

_OPTION = "--sim-seed"
_SEED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this plugin."""
    group = parser.getgroup("blkxact")
    group.addoption(
        _OPTION, metavar="N", help="seed of simulated runs: a number, or 'random' for a new one"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a seed that is none, before any test runs."""
    value = config.getoption(_OPTION)
    if value not in (None, "random") and not value.isdecimal():
        raise pytest.UsageError(f"{_OPTION} takes a number or 'random', not {value!r}")


@pytest.fixture
def sim_seed(request: pytest.FixtureRequest) -> int:
    """Seed of this test's simulated runs."""
    value = request.config.getoption(_OPTION)
    if value is None:
        seed = zlib.crc32(request.node.nodeid.encode())
    elif value == "random":
        seed = random.SystemRandom().getrandbits(32)
    else:
        seed = int(value)
    request.node.stash[_SEED] = seed
    return seed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to the report of a failure how to run the test again."""
    report = yield
    seed = item.stash.get(_SEED, None)
    if report.failed and seed is not None:
        text = f"to run it again: pytest '{item.nodeid}' {_OPTION}={seed}"
        report.sections.append(("simulation", text))
    return report
