r"""Editing one line of the human monitor, as a terminal shows it.

Invariants:

* No clock and no socket: bytes of the keyboard in, bytes for the terminal and whole lines out.
* What is shown is what QEMU shows, byte for byte: scripts compare it.

QEMU's counterpart: ``util/readline.c``, ``monitor_puts()`` (``\n`` is sent as ``\r\n``).
"""

from __future__ import annotations

from typing import Final

PROMPT: Final = b"(qemu) "
MAX_LINE: Final = 4095
"""Bytes; what is typed beyond that is dropped (READLINE_CMD_BUF_SIZE)."""
MAX_HISTORY: Final = 64
"""Lines (READLINE_MAX_CMDS)."""

_ESCAPE: Final = 0x1B
_MAX_ESCAPE: Final = 8
_ENDS: Final = b"\r\n"
_BACKSPACES: Final = b"\x08\x7f"


class ReadLine:
    """One terminal."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._cursor = 0
        self._shown = b""
        self._shown_cursor = 0
        self._escape = b""
        """What came of an escape sequence so far."""
        self._history: list[bytes] = []
        self._recalled: int | None = None
        self._output = bytearray(PROMPT)

    def take_output(self) -> bytes:
        """Return what the terminal is to be sent."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def prompt(self) -> None:
        """Show the prompt of the next line."""
        self._output += PROMPT

    def feed(self, byte: int) -> bytes | None:
        """Take one byte of the keyboard; return the line that it ends, if it does."""
        line = None
        if self._escape:
            self._in_escape(byte)
        elif byte in _ENDS:
            line = self._end()
        else:
            self._key(byte)
        self._update()
        return line

    def _end(self) -> bytes:
        line = bytes(self._line)
        if line:
            if line in self._history:
                self._history.remove(line)
            self._history = [*self._history, line][-MAX_HISTORY:]
        self._line.clear()
        self._cursor = self._shown_cursor = 0
        self._shown = b""
        self._recalled = None
        self._output += b"\r\n"
        return line

    def _key(self, byte: int) -> None:
        if byte >= 0x20 and byte != 0x7F:
            if len(self._line) < MAX_LINE:
                self._line.insert(self._cursor, byte)
                self._cursor += 1
        elif byte in _BACKSPACES:
            if self._cursor:
                self._cursor -= 1
                del self._line[self._cursor]
        elif byte == _ESCAPE:
            self._escape = bytes([byte])
        elif byte == 0x01:  # ^A
            self._cursor = 0
        elif byte == 0x04:  # ^D
            del self._line[self._cursor : self._cursor + 1]
        elif byte == 0x05:  # ^E
            self._cursor = len(self._line)
        elif byte == 0x17:  # ^W
            start = len(self._line[: self._cursor].rstrip().rpartition(b" ")[0])
            start += bool(start)
            del self._line[start : self._cursor]
            self._cursor = start

    def _in_escape(self, byte: int) -> None:
        self._escape += bytes([byte])
        is_begun = self._escape in (b"\x1b[", b"\x1bO")
        if is_begun or (byte in b"0123456789" and len(self._escape) < _MAX_ESCAPE):
            return
        key, self._escape = self._escape[2:], b""
        if key in (b"A", b"B"):
            self._recall(-1 if key == b"A" else 1)
        elif key == b"C":
            self._cursor = min(self._cursor + 1, len(self._line))
        elif key == b"D":
            self._cursor = max(self._cursor - 1, 0)
        elif key in (b"1~", b"H"):
            self._cursor = 0
        elif key in (b"4~", b"F"):
            self._cursor = len(self._line)
        elif key == b"3~":
            del self._line[self._cursor : self._cursor + 1]

    def _recall(self, step: int) -> None:
        """Show an older or newer line of the history; beyond the newest is an empty one."""
        at = len(self._history) if self._recalled is None else self._recalled
        at = max(at + step, 0)
        if at >= len(self._history):
            self._recalled = None
            self._line = bytearray()
        else:
            self._recalled = at
            self._line = bytearray(self._history[at])
        self._cursor = len(self._line)

    def _update(self) -> None:
        """Show the line as it is now."""
        line = bytes(self._line)
        if line != self._shown:
            self._output += b"\x1b[D" * self._shown_cursor + line + b"\x1b[K"
            self._shown = line
            self._shown_cursor = len(line)
        moved = self._cursor - self._shown_cursor
        self._output += b"\x1b[C" * moved if moved > 0 else b"\x1b[D" * -moved
        self._shown_cursor = self._cursor
