"""Files in memory from files of the host, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .sparse import SparseBytes

PIECE: Final = 1 << 20
"""Bytes that are copied at a time."""


def read_host_file(path: Path, content: SparseBytes) -> None:
    """Put the bytes of a file of the host into ``content``, with holes where they are zero."""
    with path.open("rb") as host:
        offset = 0
        while data := host.read(PIECE):
            if any(data):
                content.write(offset, data)
            offset += len(data)
        content.truncate(offset)


def write_host_file(content: SparseBytes, path: Path) -> None:
    """Write ``content`` to a file of the host, sparsely."""
    with path.open("wb") as host:
        host.truncate(content.size)
        for offset, length, is_data in content.map(0, content.size):
            for start in range(offset, offset + length if is_data else 0, PIECE):
                host.seek(start)
                host.write(content.read(start, min(PIECE, offset + length - start)))
