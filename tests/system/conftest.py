"""A whole emulator without sockets: commands in, results and events out, files in memory."""

from __future__ import annotations

import pytest

from tests.emulator import MIB, Emulator

__all__ = ["MIB", "Emulator"]


@pytest.fixture
def emulator() -> Emulator:
    """Return a fresh emulator."""
    return Emulator()
