"""Command lines of the human monitor, taken apart.

A command says what it takes with ``Flag`` and ``Word``; what does not fit is refused in QEMU's
words.

QEMU's counterpart: monitor_parse_arguments and get_str in ``monitor/hmp.c``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from blkxact.qapi.limits import INT64_MAX
from blkxact.qapi.strings import parse_size

ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


class HmpRefusal(Exception):  # noqa: N818 - a message for a person
    """A command line is not understood; the text is the reply's."""


@dataclass(frozen=True, slots=True)
class Flag:
    """``-x``, before the words; several of them in the order of the arguments."""

    name: str
    letter: str


@dataclass(frozen=True, slots=True)
class Word:
    """One word, or a text in double quotes. ``expected`` says what is missing without it."""

    name: str
    expected: str = "string"
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes, in MiB unless it has a suffix."""

    name: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Rest:
    """All the rest of the line, which may be nothing."""

    name: str


Argument = Flag | Word | Size | Rest

_SIZE = re.compile(r"(?:0x[0-9a-f]+|[0-9]+\.?[0-9]*)[bkmgtpe]?", re.IGNORECASE)


class Scanner:
    """Reads words from a line. ``complain`` gets what QEMU prints on its standard output."""

    def __init__(self, line: str, complain: Callable[[str], object]) -> None:
        self.line = line
        self.position = 0
        self.complain = complain

    def skip_space(self) -> None:
        """Go to the next character that is not white."""
        while self.position < len(self.line) and self.line[self.position].isspace():
            self.position += 1

    @property
    def rest(self) -> str:
        """What has not been read."""
        return self.line[self.position :]

    def word(self) -> str | None:
        """Return the next word, without its quotes; None if there is none, or it is broken."""
        self.skip_space()
        if not self.rest:
            return None
        if self.rest.startswith('"'):
            return self._quoted()
        start = self.position
        while self.position < len(self.line) and not self.line[self.position].isspace():
            self.position += 1
        return self.line[start : self.position]

    def _quoted(self) -> str | None:
        self.position += 1
        letters: list[str] = []
        while self.rest and not self.rest.startswith('"'):
            letter = self._next()
            if letter == "\\":
                letter = self._next()
                if letter not in ESCAPES:
                    self.complain(f"unsupported escape code: '\\{letter}'\n")
                    return None
                letter = ESCAPES[letter]
            letters.append(letter)
        if not self.rest:
            self.complain("unterminated string\n")
            return None
        self.position += 1
        return "".join(letters)

    def _next(self) -> str:
        letter = self.line[self.position : self.position + 1]
        self.position += 1
        return letter


def parse_arguments(
    command: str, arguments: tuple[Argument, ...], scanner: Scanner
) -> dict[str, Any]:
    """Return what a command line gives, by name; raises ``HmpRefusal``."""
    values: dict[str, Any] = {}
    for index, argument in enumerate(arguments):
        scanner.skip_space()
        match argument:
            case Flag():
                later = {flag.letter for flag in arguments[index:] if isinstance(flag, Flag)}
                _take_flag(command, argument, later, scanner, values)
            case Word():
                _take_word(command, argument, scanner, values)
            case Size(name, optional):
                if scanner.rest or not optional:
                    values[name] = _take_size(scanner)
            case Rest(name):
                values[name] = scanner.rest
                scanner.position = len(scanner.line)
    scanner.skip_space()
    if scanner.rest:
        raise HmpRefusal(f"{command}: extraneous characters at the end of line\n")
    return values


def _take_flag(
    command: str, flag: Flag, later: set[str], scanner: Scanner, values: dict[str, Any]
) -> None:
    """Take ``flag``, if it is here; ``later`` are the letters that may be in its place."""
    if not scanner.rest.startswith("-"):
        return
    letter = scanner.rest[1:2]
    if letter not in later:
        raise HmpRefusal(f"{command}: unsupported option -{letter}\n")
    if letter == flag.letter:
        values[flag.name] = True
        scanner.position += 2


def _take_word(command: str, argument: Word, scanner: Scanner, values: dict[str, Any]) -> None:
    if argument.optional and not scanner.rest:
        return
    word = scanner.word()
    if word is None:
        raise HmpRefusal(f"{command}: {argument.expected} expected\n")
    values[argument.name] = word


def _take_size(scanner: Scanner) -> int:
    found = _SIZE.match(scanner.rest)
    length = parse_size(found[0], "M") if found else None
    if found is None or length is None or length > INT64_MAX:
        raise HmpRefusal("invalid size\n")
    scanner.position += found.end()
    return length
