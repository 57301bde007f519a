"""The members of options that have no other effect: unknown ones and wrong values are refused.

QEMU's counterpart: ``opts_do_parse()`` in ``util/qemu-option.c``; the visitors of ``-smp`` and
``-boot``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from blkxact.machine.option_groups import parameters

from .errors import CliError
from .keyval import parse_opts, parse_switch

_IMPLIED: Final = {
    "action": None,
    "fw_cfg": "name",
    "global": None,
    "icount": "shift",
    "msg": None,
    "name": "guest",
    "option-rom": "romfile",
    "overcommit": None,
    "rtc": "base",
    "sandbox": "enable",
    "trace": "enable",
    "vnc": "vnc",
}
"""Options to the member whose name may be left out."""
_GROUPS: Final = {"m": ("memory", "size")}
"""The same, and the group, where it has another name than the option."""
_STRUCTS: Final = {"smp": ("smp-opts", "cpus"), "boot": ("boot-opts", "order")}
"""The same for those that QEMU reads like arguments of a command: its errors name the member."""

_SINCE_7_2: Final = {"smp": {"books", "drawers", "modules"}, "overcommit": {"mem-lock"}}
"""Members whose type newer releases have changed, or that only they have."""


SIZE_HINT: Final = (
    "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
    "and exabytes, respectively."
)


def check_members(option: str, text: str) -> None:
    """Raise ``CliError`` for an unknown member, or a value that has not the type of its member."""
    if option in _STRUCTS:
        _check_struct(option, text)
        return
    group, implied = _GROUPS.get(option, (option, _IMPLIED.get(option)))
    if option not in _GROUPS and option not in _IMPLIED:
        return
    kinds = parameters(group)
    options = parse_opts(text, implied_key=implied)
    for name in options:
        if name not in kinds and name != "id":
            raise CliError(f"Invalid parameter '{name}'")
    check_values(group, {k: v for k, v in options.items() if k not in _SINCE_7_2.get(option, ())})


def check_values(group: str, options: Mapping[str, str]) -> None:
    """Raise ``CliError`` for a value that has not the type of its member; others are not looked at.

    Numbers are those of C: decimal, octal after ``0``, hexadecimal after ``0x``.
    """
    kinds = parameters(group)
    for name, value in options.items():
        if kinds.get(name) == "boolean":
            parse_switch(name, value)
        elif kinds.get(name) == "number" and not _is_number(value):
            raise CliError(f"Parameter '{name}' expects a number")


def _check_struct(option: str, text: str) -> None:
    group, implied = _STRUCTS[option]
    kinds = parameters(group)
    options = parse_opts(text, implied_key=implied)
    for name, kind in kinds.items():
        value = options.get(name)
        if value is None:
            continue
        if kind == "number" and not _is_number(value):
            raise CliError(f"Parameter '{option}.{name}' expects integer", is_located=True)
        if kind == "boolean":
            try:
                parse_switch(f"{option}.{name}", value)
            except CliError as error:
                raise CliError(str(error), is_located=True) from None
    for name in options:
        if name not in kinds and name not in _SINCE_7_2.get(option, ()):
            raise CliError(f"Parameter '{option}.{name}' is unexpected", is_located=True)


def number_of(text: str) -> int:
    """Return the number that a text is in C; raises ``ValueError``."""
    octal = len(text) > 1 and text.startswith("0") and text.isdecimal()
    return int(text, 8 if octal else 0)


def _is_number(text: str) -> bool:
    try:
        number_of(text)
    except ValueError:
        return False
    return True
