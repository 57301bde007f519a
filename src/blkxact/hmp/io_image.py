"""qemu-io's questions about an image, and flush and truncate.

QEMU's counterpart: flush_f, truncate_f, length_f, info_f, alloc_f, map_f in ``qemu-io-cmds.c``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from blkxact.block.chain import backing_chain_next
from blkxact.block.types import SECTOR, Extent, Status
from blkxact.enums import PreallocMode
from blkxact.errors import QmpError, strerror

from .info import describe
from .io_text import IoRefusal, Options, parse_number, size_text

if TYPE_CHECKING:
    from blkxact.block.node import BlockNode

    from .io_session import IoSession


async def flush(session: IoSession, words: list[str]) -> None:
    """``flush``: says nothing, whatever becomes of it."""
    del words
    try:
        await session.wait(session.backend.flush())
    except OSError:
        return


async def truncate(session: IoSession, words: list[str]) -> None:
    """``truncate``: resize; errors are answered in the reply."""
    options = Options(session.command, words, "m:")
    name = options.values.get("m", PreallocMode.OFF)
    mode = PreallocMode.named(name)
    if mode is None:
        raise QmpError(f"Invalid preallocation mode '{name}'")
    length = parse_number(options.operands[0] if options.operands else "")
    try:
        await session.wait(session.backend.truncate(length, prealloc=mode))
    except NotImplementedError as error:
        raise QmpError("Image format driver does not support resize") from error
    except OSError as error:
        raise QmpError(f"Failed to resize the image: {strerror(error)}") from error


async def length(session: IoSession, words: list[str]) -> None:
    """``length``: the disk's."""
    del words
    try:
        session.print(f"{size_text(session.backend.length)}\n")
    except OSError as error:
        raise IoRefusal(f"getlength: {strerror(error)}\n") from error


async def info(session: IoSession, words: list[str]) -> None:
    """``info``: format, cluster size, and the format's own information (in the reply)."""
    del words
    node = session.node
    session.print(f"format name: {node.driver.format_name}\n")
    session.print(f"cluster size: {size_text(node.driver.cluster_size or 0)}\n")
    session.print(f"vm state offset: {size_text(_vm_state_offset(node))}\n")
    specific = node.driver.image_specific()
    if specific is not None:
        session.print("Format specific information:\n")
        session.context.answer(describe(specific["data"], 1))


def _vm_state_offset(node: BlockNode) -> int:
    """Return where qcow2 has room for the state of a guest: after what its L1 table covers."""
    specific, cluster_size = node.driver.image_specific(), node.driver.cluster_size
    if specific is None or specific.get("type") != "qcow2" or cluster_size is None:
        return 0
    entry_size = 16 if specific["data"].get("extended-l2") else 8
    covered = cluster_size * (cluster_size // entry_size)
    return -(-node.length // covered) * covered


async def alloc(session: IoSession, words: list[str]) -> None:
    """``alloc``: how much of a range the image itself holds."""
    offset = parse_number(words[0])
    count = parse_number(words[1]) if len(words) > 1 else SECTOR
    count = min(count, max(0, session.node.length - offset))
    try:
        extents = await _extents(session, offset, count) if count else []
    except OSError as error:
        raise IoRefusal(f"is_allocated failed: {strerror(error)}\n") from error
    held = sum(extent.length for extent in extents if extent.status & Status.ALLOCATED)
    session.print(f"{held}/{count} bytes allocated at offset {size_text(offset)}\n")


async def print_map(session: IoSession, words: list[str]) -> None:
    """``map``: all runs of what the image holds and what it does not hold."""
    del words
    try:
        extents = await _extents(session, 0, session.node.length)
    except OSError as error:
        raise QmpError(f"Failed to get allocation status: {strerror(error)}") from error
    for offset, size, allocated in _allocation(extents):
        state = "    allocated" if allocated else "not allocated"
        session.print(
            f"{size_text(size)} ({size:#x}) bytes {state} "
            f"at offset {size_text(offset)} ({offset:#x})\n"
        )


def _allocation(extents: list[Extent]) -> Iterator[tuple[int, int, bool]]:
    run: tuple[int, int, bool] | None = None
    for extent in extents:
        allocated = bool(extent.status & Status.ALLOCATED)
        if run is not None and run[2] == allocated:
            run = (run[0], run[1] + extent.length, allocated)
            continue
        if run is not None:
            yield run
        run = (extent.offset, extent.length, allocated)
    if run is not None:
        yield run


async def _extents(session: IoSession, offset: int, count: int) -> list[Extent]:
    node = session.node
    return await session.wait(
        session.backend.block_status(offset, count, base=backing_chain_next(node))
    )
