"""Long options as GNU's getopt finds them, with its words for what is wrong.

QEMU's counterpart: getopt_set_loc() in ``storage-daemon/qemu-storage-daemon.c``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .errors import CliError


class Found(NamedTuple):
    """One option, or a word that is none (``name`` is empty)."""

    name: str
    value: str
    where: str
    """The words, as errors quote them."""


def find_options(
    words: Sequence[str], long: Mapping[str, bool], short: Mapping[str, str]
) -> Iterator[Found]:
    """Yield what the words are, in their order; raise ``CliError`` at the first bad one.

    ``long`` says of each name whether it takes an argument; a name may be shortened as long as it
    remains unambiguous. ``short`` maps letters to names in ``long``. ``--`` ends everything.
    """
    rest = iter(words)
    for word in rest:
        if word == "--":
            return
        if word.startswith("--"):
            yield _long(word, rest, long)
        elif word.startswith("-") and word != "-":
            yield from _short(word, rest, long, short)
        else:
            yield Found("", word, word)


def _long(word: str, rest: Iterator[str], long: Mapping[str, bool]) -> Found:
    typed, equals, value = word[2:].partition("=")
    name = _full_name(typed, long)
    if not long[name]:
        if equals:
            raise CliError(f"option '--{name}' doesn't allow an argument")
        return Found(name, "", word)
    if equals:
        return Found(name, value, word)
    given = next(rest, None)
    if given is None:
        raise CliError(f"option '--{name}' requires an argument")
    return Found(name, given, f"{word} {given}")


def _full_name(typed: str, long: Mapping[str, bool]) -> str:
    if typed in long:
        return typed
    candidates = [name for name in long if name.startswith(typed)]
    if not candidates:
        raise CliError(f"unrecognized option '--{typed}'")
    if len(candidates) > 1:
        listed = " ".join(f"'--{name}'" for name in candidates)
        raise CliError(f"option '--{typed}' is ambiguous; possibilities: {listed}")
    return candidates[0]


def _short(
    word: str, rest: Iterator[str], long: Mapping[str, bool], short: Mapping[str, str]
) -> Iterator[Found]:
    for position, letter in enumerate(word[1:], 2):
        if letter not in short:
            raise CliError(f"invalid option -- '{letter}'")
        name = short[letter]
        if not long[name]:
            yield Found(name, "", f"-{letter}")
            continue
        value = word[position:] or next(rest, None)
        if value is None:
            raise CliError(f"option requires an argument -- '{letter}'")
        yield Found(name, value, f"-{letter} {value}")
        return
