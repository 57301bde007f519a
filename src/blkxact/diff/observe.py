"""What is looked at after each step, and in the images at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blkxact.errors import QmpError
from blkxact.image_tools.check import check
from blkxact.image_tools.open_images import ImageName, node_of, open_images

from .emulator import Emulator

QUERIES: Mapping[str, Mapping[str, Any]] = {
    "query-named-block-nodes": {"flat": True},
    "query-block": {},
    "query-jobs": {},
    "query-block-jobs": {},
    "query-block-exports": {},
}
"""Asked after each step, with these arguments."""

PIECE = 4 << 20
"""Bytes of a disk that are read at a time."""


async def observe(emulator: Emulator) -> dict[str, Any]:
    """Return what the queries return, and the digest of each bitmap of each named node."""
    state: dict[str, Any] = {}
    for query, arguments in QUERIES.items():
        state[query] = await emulator.query(query, **arguments)
    state["x-debug-block-dirty-bitmap-sha256"] = {
        f"{node['node-name']}:{bitmap['name']}": await emulator.query(
            "x-debug-block-dirty-bitmap-sha256", node=node["node-name"], name=bitmap["name"]
        )
        for node in state["query-named-block-nodes"]
        for bitmap in node.get("dirty-bitmaps", ())
        if "name" in bitmap
    }
    return state


async def look_into(path: Path) -> dict[str, Any]:
    """Return what an image reads as, its bitmaps, and what its check finds."""
    fmt = "qcow2" if path.suffix == ".qcow2" else "raw"
    try:
        async with open_images() as images:
            backend = await images.open(ImageName(str(path), fmt))
            digest = hashlib.sha256()
            for start in range(0, backend.length, PIECE):
                digest.update(await backend.pread(start, min(PIECE, backend.length - start)))
            found: dict[str, Any] = {
                "length": backend.length,
                "sha256": digest.hexdigest(),
                "bitmaps": {
                    bitmap.name: {"count": bitmap.count(), "inconsistent": bitmap.inconsistent}
                    for bitmap in node_of(backend).bitmaps.values()
                },
            }
        if fmt == "qcow2":
            async with open_images() as images:
                left = (await check(images, ImageName(str(path), fmt))).left
                found |= {"corruptions": left.corruptions, "leaks": left.leaks}
    except QmpError as error:
        return {"error": error.desc}
    return found
