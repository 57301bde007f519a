"""Copying the parts of a plan from one node to another: zeroes, ranges of files, bytes.

Everything that copies disks inside an emulator comes through here: backups, commits, streams.

Invariants:

* Parts are copied in whole; ``copied`` lists those that the target has, also after a failure.
* Every failure is a ``CopyError`` that names its side.
* Bytes that a file holds unchanged never pass through Python.

QEMU's counterpart: ``block_copy_do_copy`` in ``block/block-copy.c``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from blkxact.storage.api import Buffer, FileRange, Runs
from blkxact.storage.errors import CopyError

from .copy_plan import Method, Segment
from .copy_zeroes import CopyTarget, zero_spans, zero_target
from .types import WriteFlags

MIB = 1 << 20
COPY_STEP = 16 * MIB
"""Most bytes of one copy between files."""
BUFFER_STEP = MIB
"""Most bytes of one read or write through Python."""


class CopySource(Protocol):
    """Where bytes are read: an edge or a node."""

    def pread(self, offset: int, length: int) -> Awaitable[Buffer]:
        """Return exactly ``length`` bytes; raises ``OSError``."""


async def copy_parts(
    source: CopySource,
    target: CopyTarget,
    parts: Sequence[Segment],
    *,
    copied: list[tuple[int, int]],
    blank: bool = False,
    compressed_cluster: int = 0,
    zero_flags: WriteFlags = WriteFlags.NONE,
    sparse: int = 0,
) -> None:
    """Copy parts: zeroes first, and ranges of files together at the end.

    ``blank``: what the target's own layer does not hold reads as zeroes forever.
    ``compressed_cluster``: the unit of compressed writes in bytes; 0: they are not compressed.
    ``zero_flags`` are those of writes of zeroes. ``sparse``: blocks of so many bytes that are found
    to be zeroes may be left out. Raises ``CopyError``.
    """
    for span in zero_spans(parts):
        with writing():
            await zero_target(target, span, blank=blank, flags=zero_flags)
        copied += [(part.offset, part.length) for part in span]
    in_files: Runs = []
    for part in parts:
        if part.method is Method.COPY and not compressed_cluster:
            assert part.file is not None
            in_files += _file_steps(
                part.offset, FileRange(part.file, part.file_offset, part.length, sparse)
            )
        elif part.method is not Method.ZERO:
            if part.method is not Method.SKIP:
                await _read_and_write(source, target, part, compressed_cluster)
            copied.append((part.offset, part.length))
    if in_files:
        with writing():
            await target.pwrite_runs(in_files)
        copied += [(offset, len(payload)) for offset, payload in in_files]


async def _read_and_write(
    source: CopySource, target: CopyTarget, part: Segment, compressed_cluster: int
) -> None:
    flags = WriteFlags.COMPRESSED if compressed_cluster else WriteFlags.NONE
    step = max(BUFFER_STEP, compressed_cluster)
    for start, count in _steps(part.offset, part.length, step):
        with reading():
            data = await source.pread(start, count)
        with writing():
            await target.pwrite(start, data, flags)


@contextmanager
def reading() -> Iterator[None]:
    """Attribute a failure to the source."""
    try:
        yield
    except OSError as error:
        raise CopyError(error, reading=True) from error


@contextmanager
def writing() -> Iterator[None]:
    """Attribute a failure to the target, unless it already names its side."""
    try:
        yield
    except CopyError:
        raise
    except OSError as error:
        raise CopyError(error, reading=False) from error


def _file_steps(offset: int, place: FileRange) -> Runs:
    """Split a range of a file into copies of at most ``COPY_STEP``."""
    if place.length <= COPY_STEP:
        return [(offset, place)]
    return [
        (start, FileRange(place.file, place.offset + start - offset, length, place.sparse))
        for start, length in _steps(offset, place.length, COPY_STEP)
    ]


def _steps(offset: int, length: int, step: int) -> Iterator[tuple[int, int]]:
    """Split a range at multiples of ``step`` from its start."""
    for start in range(offset, offset + length, step):
        yield start, min(step, offset + length - start)
