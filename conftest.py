"""Tests against the real QEMU: run where its tools are, left out with one clear line elsewhere.

A test marked ``qemu`` needs all of ``QEMU_TOOLS``. With ``CI=true`` nothing may be left out:
missing tools end the run with an error.
"""

from __future__ import annotations

import os
import shutil

import pytest

QEMU_TOOLS = (
    "qemu-img",
    "qemu-io",
    "qemu-nbd",
    "qemu-storage-daemon",
    "qemu-system-x86_64",
)

_left_out = pytest.StashKey[int]()


def missing_tools() -> list[str]:
    """Return the tools that are not on the path."""
    return [tool for tool in QEMU_TOOLS if shutil.which(tool) is None]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run; put iotests/, which start real processes, at the end."""
    items.sort(key=lambda item: "iotests" in item.path.parts)
    missing = missing_tools()
    if not missing:
        return
    unable = [item for item in items if item.get_closest_marker("qemu")]
    if unable and os.environ.get("CI") == "true":
        message = f"{len(unable)} tests need {', '.join(missing)}; in CI nothing may be left out"
        raise pytest.UsageError(message)
    config.stash[_left_out] = len(unable)
    config.hook.pytest_deselected(items=unable)
    items[:] = [item for item in items if item not in set(unable)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell in one line what was left out and what would bring it back."""
    count = terminalreporter.config.stash.get(_left_out, 0)
    if count:
        terminalreporter.write_line(
            f"LEFT OUT: {count} tests that need {', '.join(missing_tools())}"
            " (Debian: apt install qemu-utils qemu-system-x86)",
            yellow=True,
        )
