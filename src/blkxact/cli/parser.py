"""The parsers of the command line: errors in one line, and verbs that are loaded when called."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from argparse import HelpFormatter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NoReturn, cast

from blkxact import PACKAGE

_COLUMNS: Final = 80
"""Of a terminal that does not say how many it has."""
_MARGIN: Final = 2
"""Columns that argparse leaves free."""


class Parser(argparse.ArgumentParser):
    """Reports a bad command line in one line, with status 1 as QEMU's tools do."""

    mixes: bool = False
    """Whether options may stand between the other words."""
    _is_mixing = False

    def __init__(
        self, *, formatter_class: type[HelpFormatter] = HelpFormatter, **more: Any
    ) -> None:
        # Without a width argparse loads shutil, and with it compression, for each argument.
        width = _columns() - _MARGIN
        super().__init__(formatter_class=partial(formatter_class, width=width), **more)

    def parse_known_args(  # type: ignore[override]  # of two signatures argparse uses this one
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse the words."""
        if not self.mixes or self._is_mixing:  # argparse calls this for options, and for all else
            return super().parse_known_args(args, namespace)
        self._is_mixing = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_mixing = False

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Return the value of an option; argparse makes an empty list of ``--size=--``."""
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        """Exit with one line; ``-h`` prints the rest."""
        self.exit(1, f"blkxact: {message} (see '{self.prog} --help')\n")


class LaterParser:
    """Stands for the parser of a command until that is called: to make all of them takes 5 ms.

    ``fill`` adds the options then.
    """

    def __init__(self, *, fill: Callable[[Parser], object], **options: Any) -> None:
        self._fill = fill
        self._options = options

    def parse_known_args(
        self, args: Sequence[str], namespace: argparse.Namespace | None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Make the parser and parse; argparse asks nothing else of the parser of a command."""
        parser = Parser(allow_abbrev=False, **self._options)
        self._fill(parser)
        return parser.parse_known_args(args, namespace)


def add_commands(
    parser: argparse.ArgumentParser, dest: str, title: str, **more: Any
) -> Callable[..., LaterParser]:
    """Let ``parser`` have commands; return what adds one, as argparse's ``add_parser``."""
    made = cast("type[Parser]", LaterParser)
    adding = parser.add_subparsers(
        dest=dest, metavar=dest.upper(), title=title, prog=parser.prog, parser_class=made, **more
    )
    return cast("Callable[..., LaterParser]", adding.add_parser)


class VersionAction(argparse.Action):
    """Prints the version and exits; ``const`` is the program of QEMU's that this one is, if any."""

    def __call__(self, parser: argparse.ArgumentParser, *_more: object) -> NoReturn:
        """Do it."""
        from .version import version_text  # noqa: PLC0415 - seldom asked for

        print(PACKAGE if self.const is None else version_text(self.const))
        parser.exit()


def add_verbs(
    parser: argparse.ArgumentParser, command: str, verbs: Mapping[str, tuple[str, str]]
) -> None:
    """Add the verbs of a command: summary and description by name; see ``image.py``."""
    add = add_commands(parser, "verb", "verbs", required=True)
    for name, (summary, description) in verbs.items():
        fill = partial(_fill_verb, f"{__package__}.{command}_{name}")
        add(name, help=summary, description=description, fill=fill)


def _fill_verb(module_name: str, parser: Parser) -> None:
    """Load the module of a verb, which has ``configure(parser)`` and ``await serve(args)``."""
    module = importlib.import_module(module_name)
    parser.mixes = True  # as for QEMU
    module.configure(parser)
    parser.set_defaults(serve=module.serve)


def _columns() -> int:
    """Return how wide the terminal is, or is to be, as ``shutil.get_terminal_size``."""
    with contextlib.suppress(KeyError, ValueError):
        columns = int(os.environ["COLUMNS"])
        if columns > 0:
            return columns
    if sys.__stdout__ is not None:
        with contextlib.suppress(ValueError, OSError):
            return os.get_terminal_size(sys.__stdout__.fileno()).columns or _COLUMNS
    return _COLUMNS
