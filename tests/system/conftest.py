"""A whole emulator without sockets: commands in, results and events out, files in memory."""

from __future__ import annotations

import pytest

from tests.emulator import MIB, Emulator

House = Emulator  # the old name, for tests that are being written (2026-11-27)
__all__ = ["MIB", "Emulator", "House"]


@pytest.fixture
def emulator() -> Emulator:
    """Return a fresh emulator."""
    return Emulator()


@pytest.fixture
def house(emulator: Emulator) -> Emulator:
    """Return ``emulator`` under its old name."""
    return emulator
