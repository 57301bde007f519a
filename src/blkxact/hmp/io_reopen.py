"""qemu-io's ``reopen``: other options for the image of a device.

QEMU's counterpart: reopen_f in ``qemu-io-cmds.c``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from blkxact.block.filename import nested
from blkxact.block.types import Permission
from blkxact.errors import QmpError

from .io_text import IoUsage, Options

if TYPE_CHECKING:
    from blkxact.block.node import BlockNode

    from .io_session import IoSession

_CACHE_MODES: Final = {
    "none": (True, True, False),
    "off": (True, True, False),
    "directsync": (False, True, False),
    "writeback": (True, False, False),
    "unsafe": (True, False, True),
    "writethrough": (False, False, False),
}
"""Whether writes are cached, ``cache.direct`` and ``cache.no-flush`` (bdrv_parse_cache_mode)."""
_OPTION: Final = re.compile(r"([^=,]*)(?:=((?:[^,]|,,)*))?(?:,|$)")
_WRITES: Final = Permission.WRITE | Permission.WRITE_UNCHANGED


async def reopen(session: IoSession, words: list[str]) -> None:
    """``reopen``: ``-r`` or ``-w``, ``-c CACHE``, ``-o OPTIONS``; what is left out stays."""
    options = Options(session.command, words, "c:o:rw")
    node, backend = session.node, session.backend
    given = _parse(options.values.get("o", ""))
    if {"r", "w"} <= options.flags:
        raise QmpError("Only one -r/-w option may be given")
    mode = options.values.get("c")
    if mode is not None and mode not in _CACHE_MODES:
        raise QmpError(f"Invalid cache option: {mode}")
    if options.operands:
        raise IoUsage
    write_cache = backend.write_cache if mode is None else _CACHE_MODES[mode][0]
    if write_cache != backend.write_cache and backend.qdev_path is not None:
        raise QmpError("Cannot change cache.writeback: Device attached")
    members = _defaults(node, options.flags, mode, given) | given
    if members["read-only"] is True and backend.root is not None:
        backend.set_permissions(backend.perm & ~_WRITES, backend.shared)
    await session.context.layer.blockdev.change_options(node, nested(members))
    backend.write_cache = write_cache


def _parse(text: str) -> dict[str, Any]:
    """Return ``name=value,...`` as flat names."""
    found = (match.groups() for match in _OPTION.finditer(text) if match[1])
    return {name: "on" if value is None else value.replace(",,", ",") for name, value in found}


def _defaults(
    node: BlockNode, flags: set[str], mode: str | None, given: dict[str, Any]
) -> dict[str, Any]:
    """Return what the flags say, or what holds already. Raises ``QmpError`` for both at once."""
    if "read-only" in given and {"r", "w"} & flags:
        raise QmpError("Cannot set both -r/-w and 'read-only'")
    read_only = node.read_only if not {"r", "w"} & flags else "r" in flags
    if mode is None:
        _, direct, no_flush = node.cache.values()
    elif {"cache.direct", "cache.no-flush"} & given.keys():
        raise QmpError("Cannot set both -c and the cache options")
    else:
        _, direct, no_flush = _CACHE_MODES[mode]
    return {"read-only": read_only, "cache.direct": direct, "cache.no-flush": no_flush}
