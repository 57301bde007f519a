r"""The edge between the program and a person: exit status, one line for an error, output streams.

Invariants:

* Every way out of a command is an exit status; no traceback reaches a person unless
  ``BLKXACT_DEBUG`` is set.
* Text is always printable: what the stream's encoding lacks is escaped (``\\xb7``), and a name
  that is not UTF-8 is written as the bytes that it is, as QEMU's tools do.
* Output that cannot be written is an error, not a silent success: the streams are flushed before
  the status is decided. A reader that has gone (``| head``) ends the command quietly.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Final, TextIO

from blkxact.errors import QmpError, hints

from .errors import CliError

STATUS_INTERRUPTED: Final = 130
STATUS_INTERNAL_ERROR: Final = 70
DEBUG_VARIABLE: Final = "BLKXACT_DEBUG"
"""Environment variable; set to anything, an internal error shows its traceback."""

_ERROR_HANDLER: Final = "blkxact-printable"
_SURROGATES: Final = range(0xDC80, 0xDD00)


def run_command(program: str, run: Callable[[], int]) -> int:
    """Return the exit status of ``run``; its errors are printed as ``program: ...``."""
    _make_printable()
    try:
        try:
            return run()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return STATUS_INTERRUPTED
    except BrokenPipeError:
        return 1
    except Exception as error:
        if is_internal(error) and os.environ.get(DEBUG_VARIABLE):
            raise
        for line in _lines(program, error):
            _complain(line)
        if is_internal(error):
            return STATUS_INTERNAL_ERROR
        return error.status if isinstance(error, CliError) else 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            _settle(stream)


def _lines(program: str, error: Exception) -> list[str]:
    """Return what is printed when a command ends with ``error``."""
    if not isinstance(error, CliError):
        return [f"{program}: {complaint(error)}", *hints(error)]
    start = program if error.place is None else f"{program}:{error.place}"
    lines = [error.earlier, complaint(error)]
    hint = [] if error.hint is None else [error.hint]
    return [*(f"{start}: {line}" for line in lines if line is not None), *hint, *hints(error)]


def is_internal(error: Exception) -> bool:
    """Return whether the error is a bug rather than a refusal or a failure of the system."""
    return not isinstance(error, (CliError, QmpError, OSError))


def complaint(error: Exception) -> str:
    """Return the line that is printed when a command ends with ``error``."""
    if not is_internal(error):
        return describe(error)
    name = type(error).__name__
    return f"internal error: {name}: {describe(error)} ({DEBUG_VARIABLE}=1 shows where)"


def describe(error: Exception) -> str:
    """Return the error as one line."""
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = str(error)
    return " ".join(text.splitlines()) or type(error).__name__


def printable(text: str) -> str:
    """Return ``text`` on one line: control characters are escaped, as in ``repr``."""
    return "".join(
        char if char.isprintable() or is_byte(char) else repr(char)[1:-1] for char in text
    )


def is_byte(char: str) -> bool:
    """Return whether a character stands for a byte of a name that is not UTF-8 (PEP 383)."""
    return ord(char) in _SURROGATES


def _complain(line: str) -> None:
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)


def _make_printable() -> None:
    codecs.register_error(_ERROR_HANDLER, _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERROR_HANDLER)


def _escape(error: UnicodeError) -> tuple[bytes | str, int]:
    """Handle the first character that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    code = ord(error.object[error.start])
    if code in _SURROGATES:
        return bytes([code & 0xFF]), error.start + 1
    escape = f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"
    return escape if code <= 0xFFFF else f"\\U{code:08x}", error.start + 1


def _settle(stream: TextIO | None) -> None:
    """Keep the interpreter from complaining, when it exits, about output that nobody can take."""
    if not isinstance(stream, io.TextIOWrapper):
        return
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
