"""Options whose text is a structure: JSON, or ``key=value`` pairs as QEMU's newer options have.

QEMU's counterpart: ``qobject_input_visitor_new_str``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from blkxact.errors import QmpError

from .errors import CliError
from .keyval import parse_keyval

T = TypeVar("T")


def parse_option(option: str, text: str, parser: Callable[[str], T]) -> T:
    """Return what ``parser`` makes of ``text``; its error names the option."""
    try:
        return parser(text)
    except CliError as error:
        raise error.located(f"{option} {text}") from error
    except QmpError as error:
        raise CliError(f"{option} {text}: {error}") from error


def members_of(text: str, implied: str) -> dict[str, Any]:
    """Return the members of a JSON object or of key=value pairs."""
    if not text.startswith("{"):
        return parse_keyval(text, implied)
    from blkxact.block.filename import parse_json_text  # noqa: PLC0415 - seldom JSON

    members = parse_json_text(text)
    assert isinstance(members, dict)  # it starts with a brace
    return members


def parse_blockdev(text: str) -> dict[str, Any]:
    """Return the arguments of ``blockdev-add``."""
    return members_of(text, "driver")


def parse_object(text: str) -> dict[str, Any]:
    """Return the arguments of ``object-add``; raises ``CliError`` without type or id."""
    members = members_of(text, "qom-type")
    for name in ("qom-type", "id"):
        if name not in members:
            raise CliError(f"Parameter '{name}' is missing")
    return members


def parse_nbd_server(text: str) -> dict[str, Any]:
    """Return the members of NbdServerOptions."""
    return members_of(text, "addr")


def parse_export(text: str) -> dict[str, Any]:
    """Return the members of BlockExportOptions."""
    return members_of(text, "type")
