"""Command lines of the human monitor, taken apart.

A command says what it takes with ``Flag`` and ``Word``; what does not fit is refused in QEMU's
words.

QEMU's counterpart: monitor_parse_arguments and get_str in ``monitor/hmp.c``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


class HmpRefusal(Exception):  # noqa: N818 - a message for a person
    """A command line is not understood; the text is the reply's."""


@dataclass(frozen=True, slots=True)
class Flag:
    """``-x``, anywhere before the words."""

    name: str
    letter: str


@dataclass(frozen=True, slots=True)
class Word:
    """One word, or a text in double quotes. ``expected`` says what is missing without it."""

    name: str
    expected: str = "string"
    optional: bool = False


Argument = Flag | Word


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
) -> dict[str, str | bool]:
    """Return what a command line gives, by name; raises ``HmpRefusal``."""
    values: dict[str, str | bool] = {}
    flags = {a.letter: a.name for a in arguments if isinstance(a, Flag)}
    scanner.skip_space()
    while flags and scanner.rest.startswith("-"):
        letter = scanner.rest[1:2]
        if letter not in flags:
            raise HmpRefusal(f"{command}: unsupported option -{letter}\n")
        values[flags[letter]] = True
        scanner.position += 2
        scanner.skip_space()
    for argument in arguments:
        if isinstance(argument, Word):
            _take_word(command, argument, scanner, values)
    scanner.skip_space()
    if scanner.rest:
        raise HmpRefusal(f"{command}: extraneous characters at the end of line\n")
    return values


def _take_word(
    command: str, argument: Word, scanner: Scanner, values: dict[str, str | bool]
) -> None:
    scanner.skip_space()
    if argument.optional and not scanner.rest:
        return
    word = scanner.word()
    if word is None:
        raise HmpRefusal(f"{command}: {argument.expected} expected\n")
    values[argument.name] = word
