"""What the kit raises where a test uses it wrongly."""

from __future__ import annotations


class KitError(Exception):
    """The emulator cannot do what the test asks for: it does not run, there is no such disk..."""
