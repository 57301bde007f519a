r"""A stream of bytes in, JSON values out.

Two ways lead to a value and must give the same one:

* the everyday message is ASCII, lies whole in the input and has no ``\u`` escape. The C scanner of
  Python's ``json`` reads it, with hooks where its JSON is not QMP's (a key twice, large integers,
  ``NaN``, ``0e1``). It finds where the message ends, so no newline is needed;
* whatever it refuses goes through ``json_scanner`` and ``json_parser``, which know every rule and
  every error.

``pydantic_core.from_json`` is faster on its own (0.3 µs instead of 1.3 µs for a short command), but
it takes a key twice, reads one message a buffer and does not report where it ends; what would have
to be added costs more than it saves.
"""

from __future__ import annotations

import contextlib
import json
import re
from enum import Enum
from typing import Any, Final

from blkxact.errors import QmpError
from blkxact.runtime.steps import Steps

from .json_parser import integer, parse_message
from .json_scanner import MAX_NESTING, Buffer, MessageScanner, Pace

PLAIN_SIZE: Final = 1 << 20
"""Bytes of the longest input that is read the quick way, which goes on to its end: 10 ms."""
PLAIN_TOKENS: Final = 128 << 10
"""Tokens of such an input: 20 ms."""
TOKEN_WEIGHT: Final = 48
"""Bytes of memory that a token of a message takes in its value."""
_LIGHT: Final = 4 << 10
"""Bytes of a message whose tokens are not counted."""


class _Marker(Enum):
    NEED_DATA = 0
    NEED_TURN = 1


NEED_DATA: Final = _Marker.NEED_DATA
"""What ``JsonStream.next_value`` returns when no whole message is left."""
NEED_TURN: Final = _Marker.NEED_TURN
"""What ``JsonStream.try_next`` returns when others should have their turn before it goes on."""


_WHITESPACE = " \t\r\n"
_SPACE = re.compile(f"[{_WHITESPACE}]*")


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
).scan_once  # type: ignore[attr-defined] # public, but typeshed lacks it


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


def _nests_too_deep(text: str, start: int, end: int, value: Any) -> bool:
    """Return whether a message is nested deeper than allowed."""
    brackets = text.count("{", start, end) + text.count("[", start, end)
    return brackets > MAX_NESTING and _nesting(value) > MAX_NESTING


def _most_tokens(data: Buffer) -> int:
    """Return how many tokens JSON has at most: each bracket and sign, and a scalar after it."""
    return sum(2 * data.count(sign) for sign in b"{}[],:") + 1


def _weight(message: str | Buffer, start: int, end: int) -> int:
    """Return roughly how many bytes of memory the value of a message takes."""
    size = end - start
    if size <= _LIGHT:
        return size
    if isinstance(message, str):
        tokens = sum(message.count(sign, start, end) for sign in "{}[],:")
    else:
        tokens = sum(message.count(sign, start, end) for sign in b"{}[],:")
    return size + TOKEN_WEIGHT * tokens


def _read_plain(text: str, start: int) -> tuple[Any, int]:
    """Return the value that begins at ``start`` and the position after it.

    Raises ``_NotPlainError`` if it has no brackets or needs a closer look.
    """
    if not text.startswith(("{", "["), start):
        raise _NotPlainError
    try:
        value, end = _scan_once(text, start)
    except (StopIteration, ValueError, RecursionError):
        raise _NotPlainError from None
    if end - start > MAX_NESTING and _nests_too_deep(text, start, end, value):
        raise _NotPlainError
    return value, end


def _plain_text(data: Buffer) -> str | None:
    """Return the text if the quick way may be tried on it."""
    if not data.isascii() or b"\\u" in data:
        return None
    if len(data) > PLAIN_SIZE or (len(data) > PLAIN_TOKENS and _most_tokens(data) > PLAIN_TOKENS):
        return None
    return data.decode("ascii")


class JsonStream:
    """Values of a stream that is fed in pieces cut anywhere.

    ``_data`` from ``_pos`` on is what is left of the input, and ``_text`` is the same as text if it
    may be read the quick way. Where that fails the scanner takes the input over; the quick way is
    tried again with the next piece.
    """

    def __init__(self) -> None:
        self.exhausted = True
        """Whether ``next_value`` would return NEED_DATA. False may be said too often, not True."""
        self.weight = 0
        """Bytes of memory, roughly, that the last value takes."""
        self._data: Buffer = b""
        self._text: str | None = None
        self._pos = 0
        self._last = 0
        """Where whitespace begins that lasts to the end of ``_text``."""
        self._pace = Pace()
        self._scanner = MessageScanner(self._pace)
        self._scanning = False
        """Whether the scanner holds the input."""
        self._grown = False
        """Whether input came since the scanner took over."""
        self._steps: Steps[Any] | None = None
        """The work on a message that is read the thorough way."""
        self._parsing = 0
        """The weight of the message that is being parsed."""

    @property
    def held(self) -> int:
        """Bytes of memory, roughly, that input takes which is no value yet."""
        if not self._scanning:
            return len(self._data) - self._pos + self._parsing
        return len(self._scanner.buffer) + self._parsing

    def feed(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        if self._scanning:
            self._scanner.feed(data)
            self._grown = True
        else:
            self._begin(data if self.exhausted else self._data[self._pos :] + data)
        self.exhausted = False

    def next_value(self) -> Any:
        """Return the next value, or NEED_DATA.

        Raises ``QmpError``, in QEMU's words, for input that is no JSON; the next call goes on
        after it (see ``json_scanner`` for what is skipped).
        """
        while (value := self.try_next()) is NEED_TURN:
            pass
        return value

    def try_next(self) -> Any:
        """Do as ``next_value``, but return NEED_TURN now and then, to be called again."""
        if self._steps is None:
            text = self._text
            if text is not None:
                try:
                    return self._next_plain(text)
                except _NotPlainError:
                    pass
            self._steps = self._next_odd(maybe_plain=text is None)
        try:
            next(self._steps)
        except StopIteration as stop:
            self._steps = None
            return stop.value
        except QmpError:
            self._steps = None
            raise
        return NEED_TURN

    def _next_plain(self, text: str) -> Any:
        """Return the next value by the quick way; raises ``_NotPlainError``."""
        if text[self._pos : self._pos + 1] != "{":
            self._pos = _SPACE.match(text, self._pos).end()  # type: ignore[union-attr] # may be empty
        start = self._pos
        value, self._pos = _read_plain(text, start)
        self.exhausted = self._pos == self._last
        self.weight = _weight(text, start, self._pos)
        return value

    def _begin(self, data: Buffer) -> None:
        """Hold input that begins between messages."""
        self._data = data
        self._pos = 0
        self._text = _plain_text(data)
        self._last = len(self._text.rstrip(_WHITESPACE)) if self._text is not None else 0

    def _next_odd(self, *, maybe_plain: bool) -> Steps[Any]:
        """Return the next value through the scanner."""
        if not self._scanning:
            self._scanning = True
            self._grown = False
            self._scanner.load(self._data, self._pos)
            self._text = None
        try:
            message = yield from self._scanner.next_message()
        finally:
            self._take_back()
        if message is None:
            self.exhausted = True
            return NEED_DATA
        if maybe_plain and (text := _plain_text(message)) is not None:
            # It was only cut in pieces, or has odd neighbours.
            with contextlib.suppress(_NotPlainError):
                value = _read_plain(text, 0)[0]
                self.weight = _weight(text, 0, len(text))
                return value
        self.weight = self._parsing = _weight(message, 0, len(message))
        try:
            return (yield from parse_message(message, self._pace))
        finally:
            self._parsing = 0

    def _take_back(self) -> None:
        """Take the rest of the input from the scanner if a quick way may begin there.

        This may copy the rest, so it is done once for each piece of input, not for each message.
        """
        scanner = self._scanner
        if scanner.between_messages and (self._grown or scanner.position == len(scanner.buffer)):
            self._scanning = False
            self._begin(scanner.buffer[scanner.position :])
