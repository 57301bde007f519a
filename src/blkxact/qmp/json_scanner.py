"""Where the messages of a byte stream end, and which of its bytes belong to no message.

The scanner knows tokens and brackets, not grammar. It is fed pieces cut anywhere and looks at every
byte once, in runs: one match of ``_FLAT`` crosses what lies between two brackets. What it gives
back are the bytes of one message, whose tokens are all well formed; ``json_parser`` makes a value
of them. It works in steps (``blkxact.runtime.steps``), between which it may be fed.

Invariants:

* A byte that can be part of no token is an error at once, not when the message ends. It takes the
  message so far with it, and what follows is skipped up to the next bracket, colon, comma or
  control character. A client may therefore send 0xFF to bring a session to a known state.
* A message ends when its brackets balance, or when one closes that was never opened. Outside
  brackets each token is a message.
* Memory is bounded by ``MAX_MESSAGE_SIZE`` plus one piece of input; time is linear in the input.

QEMU's counterpart: ``qobject/json-lexer.c`` and ``json-streamer.c``; for 0xFF, QMP specification
section 2.6. QEMU sums up the sizes of tokens; here whitespace within a message counts as well.
"""

from __future__ import annotations

import re
from enum import Enum

from blkxact.errors import QmpError
from blkxact.runtime.steps import Steps

MAX_MESSAGE_SIZE = 4 << 20
"""Bytes of one message. QEMU's MAX_TOKEN_SIZE is 64 MiB; nothing else is so large in practice."""
MAX_TOKEN_COUNT = 2 << 20
"""Tokens of one message (QEMU's MAX_TOKEN_COUNT)."""
MAX_NESTING = 1024
"""Brackets that may be open at a time (QEMU's MAX_NESTING)."""
WORK_PER_STEP = 1024
"""Tokens that are parsed in one step, 2 to 4 ms. A run or a bracket is less work to scan."""

Buffer = bytes | bytearray


class Pace:
    """Counts the work done since the last step, over any number of messages."""

    def __init__(self) -> None:
        self._done = 0

    def is_over(self, work: int = 1) -> bool:
        """Count work; return whether the step is over."""
        self._done += work
        if self._done < WORK_PER_STEP:
            return False
        self._done = 0
        return True


class Verdict(Enum):
    """What ``token_end`` found."""

    WHOLE = 0
    CUT = 1
    """The input ends before the token does."""
    STRAY = 2
    """No token can begin like this."""


_BRACKETS = frozenset(b"{}[]")
_BETWEEN = frozenset(b" \t\r\n,:")
_SPACE = re.compile(rb"[ \t\r\n]*")
_FLAT = re.compile(
    rb"(?:[ \t\r\n,:]+|\"[^\"\\\x00-\x1f\xfe\xff]*\"|[a-z]+(?=[ \t\r\n,\]}])"
    rb"|-?(?:0|[1-9][0-9]*)(?=[ \t\r\n,\]}])){0,64}"
)
"""Everyday tokens between brackets. The repetition is bounded, as each round costs memory."""
_FLAT_TOKEN = re.compile(rb"[,:]|\"[^\"]*\"|[^ \t\r\n,:\"]+")
"""One token of what ``_FLAT`` matches."""
_SKIPPED = re.compile(rb"[^\x00-\x08\x0a-\x1f\xfe\xff\[\]{}:,]*")
"""What is passed over after a stray byte."""
_STRING_RUNS = {
    quote: re.compile(
        rb"[^%c\\\x00-\x1f\xfe\xff]*(?:\\[\x20-\xfd][^%c\\\x00-\x1f\xfe\xff]*){0,64}"
        % (quote, quote)
    )
    for quote in b"\"'"
}
"""Inner bytes of a string; bounded as ``_FLAT`` is."""
_LETTERS = re.compile(rb"[a-z]*")
_DIGITS = re.compile(rb"[0-9]*")
_NUMBER = re.compile(
    rb"-?(?:0(?:\.(?:[0-9]+(?:[eE][+-]?[0-9]*)?)?)?"
    rb"|[1-9][0-9]*(?:\.(?:[0-9]+(?:[eE][+-]?[0-9]*)?)?|[eE][+-]?[0-9]*)?)?"
)
"""The longest beginning of a number. It is a number if it ends with a digit."""
_LONG_NUMBER = 64
"""A cut number of so many bytes is not read again from its start when more input comes."""


def _string_end(buffer: Buffer, start: int, resume: int) -> tuple[Verdict, int]:
    quote = buffer[start]
    run = _STRING_RUNS[quote]
    pos = max(resume, start + 1)
    while True:
        pos = run.match(buffer, pos).end()  # type: ignore[union-attr] # the run may be empty
        if pos == len(buffer):
            return Verdict.CUT, pos
        if buffer[pos] == quote:
            return Verdict.WHOLE, pos + 1
        if buffer[pos] != 0x5C:
            return Verdict.STRAY, pos + 1
        if pos + 1 == len(buffer):
            return Verdict.CUT, pos
        if not 0x20 <= buffer[pos + 1] <= 0xFD:
            return Verdict.STRAY, pos + 2


def _number_end(buffer: Buffer, start: int, resume: int) -> tuple[Verdict, int]:
    if resume - start >= _LONG_NUMBER:
        end = _DIGITS.match(buffer, resume).end()  # type: ignore[union-attr] # may be empty
        if end == len(buffer):
            return Verdict.CUT, end
    end = _NUMBER.match(buffer, start).end()  # type: ignore[union-attr] # may be empty
    if end == len(buffer):
        return Verdict.CUT, end
    leading_zero = buffer[end - 1] == 0x30 and end - start <= 2 and buffer[start] in b"-0"
    if not 0x30 <= buffer[end - 1] <= 0x39 or (leading_zero and 0x30 <= buffer[end] <= 0x39):
        return Verdict.STRAY, end + 1
    return Verdict.WHOLE, end


def token_end(buffer: Buffer, start: int, resume: int = 0) -> tuple[Verdict, int]:
    """Look at the token that begins at ``start``.

    Returns the position after it (WHOLE), where to ``resume`` when there is more input (CUT), or
    the position after the byte that made it impossible (STRAY).
    """
    first = buffer[start]
    if first in b"{}[]:,":
        return Verdict.WHOLE, start + 1
    if first in b"\"'":
        return _string_end(buffer, start, resume)
    if first in b"-0123456789":
        return _number_end(buffer, start, resume)
    if 0x61 <= first <= 0x7A:
        end = _LETTERS.match(buffer, max(resume, start)).end()  # type: ignore[union-attr]
        return (Verdict.CUT if end == len(buffer) else Verdict.WHOLE), end
    return Verdict.STRAY, start + 1


def skip_space(buffer: Buffer, start: int) -> int:
    """Return where the next token begins, or the end of the buffer."""
    return _SPACE.match(buffer, start).end()  # type: ignore[union-attr] # the run may be empty


_INVALID_SEQUENCE = re.compile(
    rb"[\xc0-\xdf][\x80-\xbf]?|[\xe0-\xef][\x80-\xbf]{0,2}|[\xf0-\xf7][\x80-\xbf]{0,3}"
    rb"|[\xf8-\xfb][\x80-\xbf]{0,4}|[\xfc-\xfd][\x80-\xbf]{0,5}|[\x80-\xff]"
)
NONCHARACTERS = re.compile(
    "[\ufdd0-\ufdef"
    + "".join(f"{chr(p << 16 | 0xFFFE)}{chr(p << 16 | 0xFFFF)}" for p in range(17))
    + "]"
)
"""Code points that stand for no character, ever. QEMU takes none of them."""


def decode(text: Buffer) -> str | None:
    """Return what modified UTF-8 stands for (U+0000 is C0 80), or None if it is invalid."""
    if text.isascii():
        return text.decode("ascii")
    try:
        decoded = text.replace(b"\xc0\x80", b"\0").decode()
    except UnicodeDecodeError:
        return None
    return None if NONCHARACTERS.search(decoded) else decoded


def quoted(text: Buffer) -> str:
    """Return bytes as an error message shows them.

    It ends at a zero byte, and one U+FFFD stands for each sequence that is no UTF-8.
    """
    shown = text.split(b"\0", 1)[0]

    def replace(match: re.Match[bytes]) -> bytes:
        return match[0] if decode(match[0]) is not None else "\ufffd".encode()

    return _INVALID_SEQUENCE.sub(replace, shown).replace(b"\xc0\x80", b"\0").decode()


def parse_error(text: str) -> QmpError:
    """Return the error for input that is not JSON."""
    return QmpError(f"JSON parse error, {text}")


class MessageScanner:
    """Cuts a stream of bytes into messages.

    ``buffer`` from ``position`` on is what was not looked at.
    """

    def __init__(self, pace: Pace) -> None:
        self.buffer: Buffer = b""
        self.position = 0
        self.tokens = 0
        """Tokens of the message so far, once it is in brackets."""
        self._pace = pace
        self._start = 0
        """Where the message begins that is being read."""
        self._resume = 0
        """Where to go on in the token at ``position``, which was cut."""
        self._braces = 0
        self._brackets = 0
        self._skipping = False

    @property
    def between_messages(self) -> bool:
        """Whether ``position`` is not inside a message, a token or an error."""
        return not (self._braces or self._brackets or self._resume or self._skipping)

    def load(self, data: Buffer, position: int) -> None:
        """Go on in other input, at a position ``between_messages``."""
        self.buffer = data
        self.position = self._start = position

    def feed(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        start = self.position if self.between_messages else self._start
        if start == len(self.buffer):
            self.buffer = data
        else:
            rest = self.buffer
            if not isinstance(rest, bytearray):
                rest = bytearray(rest)
            del rest[:start]
            rest += data
            self.buffer = rest
        self.position -= start
        self._resume = max(self._resume - start, 0)
        self._start = 0

    def next_message(self) -> Steps[bytes | None]:
        """Return the bytes of the next message, or None if more input is needed.

        Raises ``QmpError``, in QEMU's words, for input that no message can contain. The next call
        goes on after it.
        """
        if self._skipping and not self._skip():
            return None
        while True:
            if self._pace.is_over():
                yield
            inside = self._braces or self._brackets
            self._pass_everyday()
            if self.position == len(self.buffer):
                return self._wait_for_more()
            byte = self.buffer[self.position]
            if byte in _BRACKETS:
                self.position += 1
                if self._message_ends(byte):
                    return self._take()
            elif not (inside and byte in _BETWEEN):
                if not self._pass_token():
                    return self._wait_for_more()
                if not inside:
                    return self._take()

    def _pass_everyday(self) -> None:
        """Go past the everyday tokens at ``position``, or the whitespace between messages."""
        start = self.position
        inside = self._braces or self._brackets
        if not inside or self._resume:
            self.position = skip_space(self.buffer, start)
            if not inside:
                self._start = self.position
            return
        self.position = end = _FLAT.match(self.buffer, start).end()  # type: ignore[union-attr]
        if end > start:
            self._count(len(_FLAT_TOKEN.findall(self.buffer, start, end)), start)

    def _pass_token(self) -> bool:
        """Go past the token at ``position``; return whether it was whole."""
        verdict, end = token_end(self.buffer, self.position, self._resume)
        if verdict is Verdict.STRAY:
            raise self._stray(end)
        if verdict is Verdict.CUT:
            self._resume = end
            return False
        self.position = end
        self._resume = 0
        if self._braces or self._brackets:
            self._count()
        return True

    def _count(self, tokens: int = 1, run: int = 0) -> None:
        """Count tokens up to ``position``; several of them are a run that begins at ``run``.

        The one beyond the limit ends the message; what follows it is another one, as in QEMU.
        """
        self.tokens += tokens
        beyond = self.tokens - MAX_TOKEN_COUNT
        if beyond > 0:
            if tokens > 1:
                ends = [one.end() for one in _FLAT_TOKEN.finditer(self.buffer, run, self.position)]
                self.position = ends[-beyond]
            self._forget()
            raise QmpError("JSON token count limit exceeded")

    def _skip(self) -> bool:
        """Pass over what follows an error; return whether its end was found."""
        self.position = _SKIPPED.match(self.buffer, self.position).end()  # type: ignore[union-attr]
        self._start = self.position
        self._skipping = self.position == len(self.buffer)
        return not self._skipping

    def _message_ends(self, bracket: int) -> bool:
        """Count a bracket; return whether it was the last of its message."""
        if bracket == 0x7B:
            self._braces += 1
        elif bracket == 0x7D:
            self._braces -= 1
        elif bracket == 0x5B:
            self._brackets += 1
        else:
            self._brackets -= 1
        self._count()
        if self._braces + self._brackets > MAX_NESTING:
            self._forget()
            raise QmpError("JSON nesting depth limit exceeded")
        return self._braces < 0 or self._brackets < 0 or not (self._braces or self._brackets)

    def _take(self) -> bytes:
        message = bytes(memoryview(self.buffer)[self._start : self.position])
        self._forget()
        self._check_size(len(message))
        return message

    def _wait_for_more(self) -> bytes | None:
        """Return None, unless there is too much input already."""
        size = len(self.buffer) - self._start
        if size > MAX_MESSAGE_SIZE:
            self.position = len(self.buffer)
            self._forget()
            self._check_size(size)
        return None

    def _stray(self, end: int) -> QmpError:
        token = self.buffer[self.position : end]
        self.position = end
        self._forget()
        self._skipping = True
        return parse_error(f"stray '{quoted(token)}'")

    def _forget(self) -> None:
        """Be between messages."""
        self._braces = self._brackets = self._resume = self.tokens = 0
        self._start = self.position

    @staticmethod
    def _check_size(size: int) -> None:
        if size > MAX_MESSAGE_SIZE:
            raise QmpError("JSON token size limit exceeded")
