"""The command that says where the record is; only a daemon with ``--record`` has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .command import Command

if TYPE_CHECKING:
    from blkxact.block_layer import BlockLayer
    from blkxact.qapi.common import NoArguments


def query_record(layer: BlockLayer, args: NoArguments) -> dict[str, Any]:
    """x-blkxact-query-record."""
    del args
    return {"filename": layer.record_path}


COMMANDS: Final = (Command("x-blkxact-query-record", query_record, locked=False),)
