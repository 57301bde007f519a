"""The messages of ``serve``, on standard error or in a file: what ``logging`` is given.

Invariants:

* A message is one line, except for the traceback of an internal error.
* A message that cannot be written (full disk, closed pipe) is dropped: a log never stops a job.
* Standard error that nobody reads holds up nobody (``PacedOutput``).

QEMU's counterpart: ``util/log.c`` (``-D``), ``util/error-report.c`` (``-msg timestamp=on``).
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, Protocol, TextIO

from blkxact.storage.paced_output import STDERR, PacedOutput

from .boundary import printable
from .errors import CliError


def open_log(path: str) -> TextIO:
    """Open a file to append messages to; raises ``CliError``."""
    try:
        from pathlib import Path  # noqa: PLC0415 - most messages go to standard error

        return Path(path).open("a", encoding="utf-8", errors="surrogateescape", buffering=1)
    except OSError as error:
        raise CliError(f"cannot open log file '{path}': {error.strerror}") from error


class Stream(Protocol):
    """What messages are written to."""

    def write(self, text: str, /) -> object:
        """Write a message, with the end of its line."""

    def flush(self) -> None:
        """Do nothing, or write what was held back."""


class _ErrorText:
    """Standard error for text, which does not wait for its reader."""

    def __init__(self, output: PacedOutput, encoding: str, errors: str) -> None:
        self._output = output
        self._encoding = encoding
        self._errors = errors

    def write(self, text: str, /) -> None:
        self._output.write(text.encode(self._encoding, self._errors))

    def flush(self) -> None:
        pass


def error_stream(output: PacedOutput) -> Stream:
    """Return what writes text to standard error as ``output`` does, if that is a descriptor."""
    stream = sys.stderr
    try:
        is_own = stream.fileno() == STDERR
    except (AttributeError, OSError):
        is_own = False
    return _ErrorText(output, stream.encoding, stream.errors or "strict") if is_own else stream


@contextlib.contextmanager
def logging_to(stream: Stream, *, program: str, times: bool, verbose: bool) -> Iterator[None]:
    """Write messages to ``stream`` while the context is entered.

    Each begins with ``program``, and with the time before that if ``times``. ``verbose`` includes
    each step.
    """
    root, ours = logging.getLogger(), logging.getLogger("blkxact")
    handler = _Handler(stream)
    handler.setFormatter(_Formatter(program, times=times))
    root.addHandler(handler)
    ours.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        ours.setLevel(logging.NOTSET)
        root.removeHandler(handler)


class _Handler(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Drop the message."""


class _Formatter(logging.Formatter):
    """``2026-11-27T06:35:12.345678Z blkxact: text``, in UTC as the timestamps of QMP events."""

    def __init__(self, program: str, *, times: bool) -> None:
        time = "%(asctime)s " if times else ""
        super().__init__(f"{time}{program.replace('%', '%%')}: %(message)s")

    def formatTime(  # noqa: N802 - logging's name
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        del datefmt
        from datetime import UTC, datetime  # noqa: PLC0415 - most logs have no times

        time = datetime.fromtimestamp(record.created, UTC).replace(tzinfo=None)
        return f"{time.isoformat(timespec='microseconds')}Z"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Keep a name with a line break in it from looking like a message of its own.

        A record with ``bare`` says itself who speaks (fprintf in QEMU).
        """
        record.message = printable(record.message)
        return record.message if hasattr(record, "bare") else super().formatMessage(record)
