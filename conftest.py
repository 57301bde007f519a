"""Tests against real tools: run where these are, left out with one clear line elsewhere.

A test with one of the marks in ``TOOLS`` needs all tools of it. With ``CI=true`` nothing may be
left out: missing tools end the run with an error. A test marked ``qemu10`` needs QEMU 10.0, which
is in no Debian that has the others: it runs where ``BLKXACT_QEMU10`` names its directory.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

TOOLS = {
    "qemu": ("qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon", "qemu-system-x86_64"),
    "nbd": ("nbdinfo", "nbdcopy", "nbdsh", "nbdkit", "fio"),
    "libvirt": (
        "/usr/lib/python3/dist-packages/libvirt.py",
        "/usr/sbin/libvirtd",
        "virtnbdbackup",
        "nbdkit",
    ),
}
PACKAGES = (
    "qemu-utils qemu-system-x86 libnbd-bin python3-libnbd nbdkit fio"
    " libvirt-daemon libvirt-daemon-driver-qemu python3-libvirt virtnbdbackup"
)

_left_out = pytest.StashKey[int]()
_missing = pytest.StashKey[list[str]]()


def missing_tools(mark: str) -> list[str]:
    """Return the tools of a mark that are neither on the path nor a file."""
    return [tool for tool in TOOLS[mark] if shutil.which(tool) is None and not Path(tool).exists()]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot run; put iotests/, which start real processes, at the end."""
    items.sort(key=lambda item: "iotests" in item.path.parts)
    if "BLKXACT_QEMU10" not in os.environ:
        without = [item for item in items if item.get_closest_marker("qemu10")]
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in set(without)]
    lacking = {mark: tools for mark in TOOLS if (tools := missing_tools(mark))}
    if not lacking:
        return
    unable = [item for item in items if any(map(item.get_closest_marker, lacking))]
    missing = [tool for tools in lacking.values() for tool in tools]
    if unable and os.environ.get("CI") == "true":
        message = f"{len(unable)} tests need {', '.join(missing)}; in CI nothing may be left out"
        raise pytest.UsageError(message)
    config.stash[_left_out] = len(unable)
    config.stash[_missing] = missing
    config.hook.pytest_deselected(items=unable)
    items[:] = [item for item in items if item not in set(unable)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell in one line what was left out and what would bring it back."""
    stash = terminalreporter.config.stash
    count = stash.get(_left_out, 0)
    if count:
        terminalreporter.write_line(
            f"LEFT OUT: {count} tests that need {', '.join(stash[_missing])}"
            f" (Debian: apt install {PACKAGES})",
            yellow=True,
        )
