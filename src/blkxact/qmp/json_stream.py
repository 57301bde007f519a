"""A stream of bytes in, JSON values out.

Two ways lead to a value and must give the same one:

* the everyday message is ASCII, lies whole in the input and has no ``\\u`` escape. The C scanner of
  Python's ``json`` reads it, with hooks where its JSON is not QMP's (a key twice, large integers,
  ``NaN``, ``0e1``). It tells where the message ends, so no newline is needed;
* whatever it refuses goes through ``json_scanner`` and ``json_parser``, which know every rule and
  every error.

``pydantic_core.from_json`` is faster on its own (0.3 µs instead of 1.3 µs for a short command), but
it takes a key twice, reads one message a buffer and does not tell where it ends; what would have to
be added costs more than it saves.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any, Final

from .json_parser import MAX_TOKEN_COUNT, integer, parse_message
from .json_scanner import MAX_NESTING, MessageScanner


class _Marker(Enum):
    NEED_DATA = 0


NEED_DATA: Final = _Marker.NEED_DATA
"""What ``JsonStream.next_value`` returns when no whole message is left."""

_SPACE = re.compile(r"[ \t\r\n]*")


class _NotPlainError(ValueError):
    """The message is for the thorough parser to judge."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _NotPlainError
    return members


def _refuse(_word: str) -> Any:
    raise _NotPlainError


def _float(text: str) -> float:
    if text.lstrip("-")[:2] in ("0e", "0E"):
        raise _NotPlainError
    return float(text)


_scan_once = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse, parse_int=integer, parse_float=_float
).scan_once


def _nesting(value: Any) -> int:
    """Return how deep lists and objects are in each other."""
    depth = 0
    level = [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [
            inner for item in level for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return depth


def _read_plain(text: str, start: int) -> tuple[Any, int]:
    """Return the object that begins at ``start`` and the position after it.

    Raises ``_NotPlainError`` if this is not so simple.
    """
    try:
        value, end = _scan_once(text, start)
    except (StopIteration, ValueError, RecursionError):
        raise _NotPlainError from None
    if end - start > MAX_TOKEN_COUNT or (
        end - start > MAX_NESTING
        and text.count("{", start, end) + text.count("[", start, end) > MAX_NESTING
        and _nesting(value) > MAX_NESTING
    ):
        raise _NotPlainError
    return value, end


def _plain_text(data: bytes | bytearray) -> str | None:
    """Return the text if the quick way may be tried on it."""
    if not data.isascii() or b"\\u" in data:
        return None
    return data.decode("ascii")


class JsonStream:
    """Values of a stream that is fed in pieces cut anywhere."""

    def __init__(self) -> None:
        self._scanner = MessageScanner()
        self._text: str | None = None
        """What the scanner's buffer holds from ``_text_start``, if it is plain."""
        self._text_start = 0
        self._judged = False
        """Whether ``_text`` was made for the present buffer."""

    def feed(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        self._scanner.feed(data)
        self._text = None
        self._judged = False

    def next_value(self) -> Any:
        """Return the next value, or NEED_DATA.

        Raises ``QmpError``, in QEMU's words, for input that is no JSON; the next call goes on
        behind it (see ``json_scanner`` for what is skipped).
        """
        scanner = self._scanner
        if scanner.between_messages:
            if not self._judged:
                self._judge()
            if self._text is not None:
                try:
                    return self._next_plain(self._text)
                except _NotPlainError:
                    pass
        tried = self._text is not None
        message = scanner.next_message()
        if message is None:
            return NEED_DATA
        if not tried and message[0] == 0x7B and (text := _plain_text(message)) is not None:
            try:
                return _read_plain(text, 0)[0]
            except _NotPlainError:
                pass
        return parse_message(message)

    def _judge(self) -> None:
        """Find out whether the rest of the buffer may be read the quick way."""
        self._judged = True
        self._text_start = self._scanner.position
        rest = self._scanner.buffer
        if self._text_start:
            rest = rest[self._text_start :]
        self._text = _plain_text(rest)

    def _next_plain(self, text: str) -> Any:
        pos = self._scanner.position - self._text_start
        if not text.startswith("{", pos):
            pos = _SPACE.match(text, pos).end()  # type: ignore[union-attr] # may be empty
            self._scanner.position = pos + self._text_start
            if pos == len(text):
                return NEED_DATA
            if text[pos] != "{":
                raise _NotPlainError
        value, end = _read_plain(text, pos)
        self._scanner.position = end + self._text_start
        return value
