"""How a request to a file of the host fails, where an errno does not say all."""

from __future__ import annotations

import errno
import os


class CopyError(OSError):
    """A copy between two files failed on one side."""

    def __init__(self, error: OSError, *, reading: bool) -> None:
        super().__init__(error.errno, error.strerror)
        self.reading = reading


class TornWriteError(OSError):
    """A write failed and has left a part of its bytes behind."""


class LockConflict(OSError):  # noqa: N818 - it names what happened, as QEMU does
    """Another process holds a lock; ``message`` is QEMU's text (``Failed to get "write" lock``).

    Its note is QEMU's hint.
    """

    def __init__(self, errno: int, message: str, path: str) -> None:
        super().__init__(errno, message)
        self.message = message
        self.add_note(f"Is another process using the image [{path}]?")


class OpenError(OSError):
    """A file cannot be opened, for a reason that QEMU words in its own way: ``message``."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, os.strerror(number))
        self.message = message


class WriteProtected(OpenError):  # noqa: N818 - it names what happened
    """A device takes no writes."""

    def __init__(self) -> None:
        reason = os.strerror(errno.EACCES)
        super().__init__(errno.EACCES, f"The device is not writable: {reason}")


class BadDescriptorSet(OpenError):  # noqa: N818 - it names what is wrong
    """``/dev/fdset/N`` has no descriptor with the wanted access."""
