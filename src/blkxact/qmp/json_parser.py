r"""Values of messages that ``json_scanner`` cut out, and QEMU's words for those that have none.

JSON as QMP takes it: strings in single or double quotes, ``\'`` as an escape, modified UTF-8. An
integer beyond 64 bits is a float. A key may come once. The first fault from the left is reported.
The work is done in steps (``blkxact.runtime.steps``), since a token takes microseconds.

QEMU's counterpart: ``qobject/json-parser.c``. ``json_stream`` reads everyday messages without
coming here.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

from blkxact.runtime.steps import Steps

from .json_scanner import (
    NONCHARACTERS,
    Buffer,
    Pace,
    decode,
    parse_error,
    quoted,
    skip_space,
    token_end,
)

MAX_WORD_ERROR = 1023
"""Characters of an unknown word's error message, its introduction included; QEMU cuts it there."""

_OBJECT, _OBJECT_END, _LIST, _LIST_END, _COLON, _COMMA = b"{}[]:,"
_BACKSLASH, _U = b"\\u"
_WORDS: dict[bytes, Any] = {b"true": True, b"false": False, b"null": None}
_ESCAPES = dict(zip(b"\"'\\/bfnrt", "\"'\\/\b\f\n\r\t", strict=True))
_QUOTES = b"\"'"
_PIECE = 64 << 10
"""Bytes of a string that are decoded at a time."""
_PLAIN = {quote: re.compile(rb"[^%c\\]{0,%d}" % (quote, _PIECE)) for quote in _QUOTES}
_LONGEST_SEQUENCE = 6
"""Bytes that stand for one character."""
_MOST_INTEGER_DIGITS = 400
"""Longer ones are infinite."""
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_LOW_SURROGATE = re.compile(rb"\\u([dD][c-fC-F][0-9a-fA-F]{2})")


def integer(text: str | bytes) -> int | float:
    """Return the number, as a float if it does not fit into 64 bits, signed or unsigned."""
    if len(text) <= 20:
        value = int(text)
        if -(1 << 63) <= value < 1 << 64:
            return value
    if len(text) > _MOST_INTEGER_DIGITS:
        return float("-inf" if text[:1] in (b"-", "-") else "inf")
    return float(text)


def _unicode_escape(text: Buffer, start: int) -> tuple[str, int]:
    r"""Return the character of a ``\u`` escape, or of a pair of them, and the position after it."""
    end = start + 6
    code = int(text[start + 2 : end], 16) if _HEX.match(text, start + 2) else -1
    if 0xD800 <= code <= 0xDBFF and (low := _LOW_SURROGATE.match(text, end)):
        code = 0x10000 + ((code & 0x3FF) << 10) + (int(low[1], 16) & 0x3FF)
        end = low.end()
    if code < 0 or 0xD800 <= code <= 0xDFFF or NONCHARACTERS.match(chr(code)):
        raise parse_error(f"{quoted(text[start:end])} is not a valid Unicode character")
    return chr(code), end


def _plain_end(message: Buffer, start: int, quote: int) -> int:
    """Return the end of a piece of a string without escapes that cuts no character in two."""
    end = _PLAIN[quote].match(message, start).end()  # type: ignore[union-attr] # may be empty
    for back in range(_LONGEST_SEQUENCE):
        if not 0x80 <= message[end - back] < 0xC0:
            return end - back
    return end


def _string(message: Buffer, start: int, pace: Pace) -> Steps[tuple[str, int]]:
    """Return what the string token at ``start`` stands for, and the position after it."""
    quote = message[start]
    long: list[str] = []
    parts: list[str] = []
    pos = start + 1
    while message[pos] != quote:
        end = _plain_end(message, pos, quote)
        plain = decode(message[pos:end])
        if plain is None:
            raise parse_error("invalid UTF-8 sequence in string")
        parts.append(plain)
        if pace.is_over(1 + (end - pos >> 8)):
            long.append("".join(parts))
            parts.clear()
            yield
        pos = end
        if message[pos] == _BACKSLASH:
            char = _ESCAPES.get(message[pos + 1])
            pos += 2
            if message[pos - 1] == _U:
                char, pos = _unicode_escape(message, pos - 2)
            elif char is None:
                raise parse_error("invalid escape sequence in string")
            parts.append(char)
    return "".join(long) + "".join(parts), pos + 1


def _scalar(first: int, token: Buffer) -> Any:
    if first in b"-0123456789":
        text = bytes(token)
        return float(text) if any(byte in text for byte in b".eE") else integer(text)
    if 0x61 <= first <= 0x7A:
        try:
            return _WORDS[bytes(token)]
        except KeyError:
            raise parse_error(f"invalid keyword '{token.decode()}'"[:MAX_WORD_ERROR]) from None
    raise parse_error("expecting value")


class _Next(Enum):
    """What may come next in a message."""

    VALUE = "a value"
    FIRST = "a value, or the end of what was just opened"
    COLON = "the colon after a key"
    SEPARATOR = "a comma, or the end of what is open"


class _Open:
    """An object or a list that is not closed yet; ``key`` waits for its value."""

    __slots__ = ("container", "end", "key")

    def __init__(self, container: dict[str, Any] | list[Any], end: int) -> None:
        self.container = container
        self.end = end
        self.key: str | None = None


class _Builder:
    """Puts values where they belong. It keeps its own stack: messages nest deeper than Python."""

    def __init__(self) -> None:
        self.value: Any = None
        self._next = _Next.VALUE
        self._stack: list[_Open] = []

    def punctuate(self, first: int) -> bool:
        """Take a token if it is punctuation; a scalar may come here if not.

        Raises ``QmpError`` if the token may not come here.
        """
        if self._next is _Next.COLON:
            if first != _COLON:
                raise parse_error("missing : in object pair")
            self._next = _Next.VALUE
        elif self._next is _Next.SEPARATOR and first == _COMMA:
            self._next = _Next.VALUE
        elif self._next in (_Next.SEPARATOR, _Next.FIRST) and first == self._stack[-1].end:
            self.place(self._stack.pop().container)
        elif self._next is _Next.SEPARATOR:
            kind = "dict" if self._stack[-1].end == _OBJECT_END else "list"
            raise parse_error(f"expected separator in {kind}")
        elif first == _OBJECT:
            self._stack.append(_Open({}, _OBJECT_END))
            self._next = _Next.FIRST
        elif first == _LIST:
            self._stack.append(_Open([], _LIST_END))
            self._next = _Next.FIRST
        else:
            return False
        return True

    def place(self, value: Any) -> None:
        """Give a value to what is open: it is a key, a member or the whole message."""
        self._next = _Next.SEPARATOR
        if not self._stack:
            self.value = value
            return
        top = self._stack[-1]
        if isinstance(top.container, list):
            top.container.append(value)
        elif top.key is not None:
            if top.key in top.container:
                raise parse_error("duplicate key")
            top.container[top.key] = value
            top.key = None
        elif isinstance(value, str):
            top.key = value
            self._next = _Next.COLON
        else:
            raise parse_error("key is not a string in object")


def parse_message(message: Buffer, pace: Pace) -> Steps[Any]:
    """Return the value of a message that the scanner has passed; raises ``QmpError``.

    A number or word at the end of ``message`` has its terminator after it in the stream.
    """
    builder = _Builder()
    if pace.is_over(len(message) >> 10):
        yield  # it may be one token
    pos = skip_space(message, 0)
    while pos < len(message):
        first = message[pos]
        if builder.punctuate(first):
            pos += 1
        elif first in _QUOTES:
            value, pos = yield from _string(message, pos, pace)
            builder.place(value)
        else:
            _, end = token_end(message, pos)
            builder.place(_scalar(first, message[pos:end]))
            pos = end
        if pace.is_over():
            yield
        pos = skip_space(message, pos)
    return builder.value
