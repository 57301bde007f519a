"""The old name of ``tests.emulator``, for tests that are being written (2026-11-27)."""

from tests.emulator import KIB, SIZE, Emulator

House = Emulator
__all__ = ["KIB", "SIZE", "House"]
