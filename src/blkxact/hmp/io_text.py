"""Numbers and reports as ``qemu-io`` reads and prints them.

QEMU's counterpart: cvtnum, cvtstr, timestr, print_report, dump_buffer in ``qemu-io-cmds.c``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from blkxact.qapi.sizes import parse_size
from blkxact.storage.api import Buffer

INT64_MAX = (1 << 63) - 1
REQUEST_MAX = 0x7FFFFE00
"""Most bytes of one request (BDRV_REQUEST_MAX_BYTES)."""


class IoRefusal(Exception):  # noqa: N818 - a message for a person, printed where it was caused
    """A qemu-io command ends here; the text is printed, ends of lines included."""


class IoMistake(IoRefusal):
    """What QEMU prints on its standard error: the command line is wrong, or a file is."""


def parse_number(text: str) -> int:
    """Return bytes from ``64k``, ``1.5M``, ``0x200``; raises ``IoRefusal`` in QEMU's words."""
    value = parse_size(text)
    if value is None:
        raise _not_a_number(text)
    if value > INT64_MAX:
        raise IoRefusal(f"Parsing error: argument too large -- {text}\n")
    return value


def _not_a_number(text: str) -> IoRefusal:
    return IoRefusal(
        "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- " + text + "\n"
    )


def parse_pattern(text: str) -> int:
    """Return the byte that ``-P`` names; raises ``IoRefusal``."""
    value = c_integer(text)
    if value is None or not 0 <= value <= 255:
        raise IoRefusal(f"{text} is not a valid pattern byte\n")
    return value


def c_integer(text: str) -> int | None:
    """Return a number in C's notation: decimal, ``0x`` or a leading 0 for octal."""
    match = re.fullmatch(r"\s*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9]\d*))", text)
    if match is None:
        return None
    sign, hexadecimal, octal, decimal = match.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal or decimal, 8 if octal else 10)
    return -value if sign == "-" else value


def size_text(value: float) -> str:
    """Return ``64 KiB``, ``1.500 MiB``, ``20 bytes``."""
    for power, name in ((6, "EiB"), (5, "PiB"), (4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if value >= 1 << 10 * power:
            number, unit = f"{value / (1 << 10 * power):.3f}", name
            break
    else:
        number, unit = f"{value:f}", "bytes"
    whole, trimmed, _ = number.partition(".000")
    return f"{whole if trimmed else number} {unit}"


def time_text(seconds: float, *, long: bool) -> str:
    """Return ``00.25 sec``, or ``0:01:02.50`` when long or a second and more."""
    if not long and seconds < 1:
        return f"{seconds:05.2f} sec"
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{math.fmod(seconds, 60):05.2f}"


class Done(NamedTuple):
    """A request that has ended well: its range in bytes and the seconds it took."""

    operation: str
    offset: int
    length: int
    seconds: float


def report(done: Done, *, machine: bool) -> str:
    """Return what a request that is done prints; ``machine`` is ``-C``."""
    operation, offset, length, seconds = done
    seconds = max(seconds, 1e-9)
    if machine:
        spent = time_text(seconds, long=True)
        return f"{length},1,{spent},{length / seconds:.3f},{1 / seconds:.3f}\n"
    return (
        f"{operation} {length}/{length} bytes at offset {offset}\n"
        f"{size_text(length)}, 1 ops; {time_text(seconds, long=False)} "
        f"({size_text(length / seconds)}/sec and {1 / seconds:.4f} ops/sec)\n"
    )


def mismatch(data: Buffer, offset: int, pattern: int) -> str:
    """Return what is printed of bytes that are not all ``pattern``; nothing if they are."""
    if bytes(data).count(pattern) == len(data):
        return ""
    return f"Pattern verification failed at offset {offset}, {len(data)} bytes\n"


def dump(data: Buffer, offset: int) -> str:
    """Return 16 bytes a line, in hexadecimal and as letters and digits."""
    return "".join(_dump_lines(memoryview(data), offset))


def _dump_lines(data: memoryview, offset: int) -> Iterator[str]:
    for start in range(0, len(data), 16):
        line = bytes(data[start : start + 16])
        letters = "".join(chr(b) if b < 128 and chr(b).isalnum() else "." for b in line)
        yield f"{offset + start:08x}:  {line.hex(' ')}  {letters}\n"


class Options:
    """Options and operands of a command, in any order, as ``getopt`` finds them.

    ``spec`` is getopt's: letters, each with a colon if it takes a value. The values are kept with
    the last one winning; flags are in ``flags``.
    """

    def __init__(self, name: str, words: Sequence[str], spec: str) -> None:
        self.flags: set[str] = set()
        self.values: dict[str, str] = {}
        self.operands: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.operands += rest
                break
            if word.startswith("-") and len(word) > 1:
                self._letters(name, word[1:], spec, rest)
            else:
                self.operands.append(word)

    def _letters(self, name: str, letters: str, spec: str, rest: list[str]) -> None:
        for index, letter in enumerate(letters):
            at = spec.find(letter) if letter != ":" else -1
            if at < 0:
                raise IoUsage(f"{name}: invalid option -- '{letter}'\n")
            if spec[at + 1 : at + 2] != ":":
                self.flags.add(letter)
                continue
            value = letters[index + 1 :] or (rest.pop(0) if rest else None)
            if value is None:
                raise IoUsage(f"{name}: option requires an argument -- '{letter}'\n")
            self.values[letter] = value
            return

    def number(self, letter: str, default: int = 0) -> int:
        """Return the number that an option gives."""
        return parse_number(self.values[letter]) if letter in self.values else default

    def pattern(self, default: int) -> int:
        """Return the byte that ``-P`` gives."""
        return parse_pattern(self.values["P"]) if "P" in self.values else default


class IoUsage(IoMistake):
    """The command was called in a wrong way: its usage is printed (on standard output) as well."""
