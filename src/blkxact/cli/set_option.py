"""``-set GROUP.ID.NAME=VALUE``: one more member for an option that stands before it.

QEMU's counterpart: ``qemu_set_option()`` in ``softmmu/vl.c``.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from .errors import CliError
from .keyval import parse_opts
from .system_options import GROUPS

_SETTING: Final = re.compile(
    r"(?P<group>[^.]+)\.(?P<id>[^.]+)\.(?P<name>[^=]+)=(?P<value>.*)", re.DOTALL
)
_NOT_SET: Final = "object"
"""A group whose members cannot be set."""


class Word(NamedTuple):
    """An option as it stands on the command line."""

    option: str
    """As it was typed."""
    name: str
    value: str
    settings: str = ""
    """Members that ``-set`` adds to the value."""

    @property
    def where(self) -> str:
        """The words, for messages."""
        return f"{self.option} {self.value}".strip()

    @property
    def argument(self) -> str:
        """The value with what was set."""
        return self.value + self.settings


def with_settings(words: list[Word]) -> list[Word]:
    """Return the words with the members that each ``-set`` adds to one before it.

    A ``-set`` that adds nothing remains, for ``refuse_setting``.
    """
    result: list[Word] = []
    for word in words:
        if word.name != "set" or not _set(result, word.value):
            result.append(word)
    return result


def _set(words: list[Word], text: str) -> bool:
    found = _SETTING.fullmatch(text)
    if found is None or found["group"] == _NOT_SET or found["group"] not in GROUPS:
        return False
    for index, word in enumerate(words):
        if word.name == found["group"] and parse_opts(word.argument).get("id") == found["id"]:
            member = f",{found['name']}={found['value'].replace(',', ',,')}"
            words[index] = word._replace(settings=word.settings + member)
            return True
    return False


def refuse_setting(text: str) -> None:
    """Raise ``CliError`` for a ``-set`` that has nothing before it to change."""
    found = _SETTING.fullmatch(text)
    if found is None:
        raise CliError(f'can\'t parse: "{text}"')
    if found["group"] == _NOT_SET:
        raise CliError(f"-set is not supported with {_NOT_SET}")
    if found["group"] not in GROUPS:
        raise CliError(f"There is no option group '{found['group']}'")
    raise CliError(f'there is no {found["group"]} "{found["id"]}" defined')
