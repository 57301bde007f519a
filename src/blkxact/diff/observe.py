"""What is looked at after each step, and in the images at the end."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from blkxact.errors import QmpError
from blkxact.image_tools.check import check
from blkxact.image_tools.open_images import ImageName, node_of, open_images

from .emulator import Emulator, query

DRIVES: Final = "query-block"
JOBS: Final = "query-jobs"
NODES: Final = "query-named-block-nodes"
GRAPH: Final = "x-debug-query-block-graph"
STATS: Final = "query-blockstats"
QUERIES: Mapping[str, bytes] = {
    NODES: query(NODES, flat=True),
    DRIVES: query(DRIVES),
    JOBS: query(JOBS),
    "query-block-jobs": query("query-block-jobs"),
    "query-block-exports": query("query-block-exports"),
    STATS: query(STATS),
    GRAPH: query(GRAPH),
    "query-status": query("query-status"),
}
"""Asked after each step."""
DIGEST: Final = "x-debug-block-dirty-bitmap-sha256"
"""Asked of each bitmap of each named node, where ``NODES`` shows a change."""

_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(:?)')
"""A string in a line; the colon follows the name of a member."""
PIECE = 4 << 20
"""Bytes of a disk that are read at a time."""


async def observe(emulator: Emulator) -> dict[str, bytes]:
    """Return the replies to ``QUERIES``."""
    return dict(zip(QUERIES, await emulator.query(list(QUERIES.values())), strict=True))


async def digests(emulator: Emulator, nodes: bytes) -> dict[str, Any]:
    """Return the digest of each bitmap in a reply to ``NODES``, or the error."""
    bitmaps = [
        (node["node-name"], bitmap["name"])
        for node in items_in(nodes)
        for bitmap in node.get("dirty-bitmaps", ())
        if "name" in bitmap
    ]
    replies = await emulator.query([query(DIGEST, node=node, name=name) for node, name in bitmaps])
    return {
        f"{node}:{name}": said_in(reply)
        for (node, name), reply in zip(bitmaps, replies, strict=True)
    }


def edges_of(graph: Mapping[str, Any]) -> dict[str, Any]:
    """Return the permissions on each edge of a ``GRAPH``, by the names of both ends.

    Several edges between the same ends, such as those of unnamed exports, have no order.
    """
    ends = {node["id"]: f"{node['name']}({node['type']})" for node in graph["nodes"]}
    alike: dict[str, list[dict[str, list[str]]]] = {}
    for edge in graph["edges"]:
        name = f"{ends[edge['parent']]}.{edge['name']}={ends[edge['child']]}"
        masks = {key: sorted(edge[key]) for key in ("perm", "shared-perm")}
        alike.setdefault(name, []).append(masks)
    return {
        name + number * "+": masks
        for name, edges in alike.items()
        for number, masks in enumerate(sorted(edges, key=repr))
    }


def with_drivers(stats: Any, nodes: Any) -> Any:
    """Return the items of ``STATS`` with driver and file of each node; an error as it is."""
    if not isinstance(stats, list) or not isinstance(nodes, list):
        return stats
    known = {node["node-name"]: {"drv": node["drv"], "file": node["file"]} for node in nodes}
    return [{**item, **known.get(item.get("node-name", ""), {})} for item in stats]


def in_context(line: str, seen: Mapping[str, bytes]) -> str:
    """Return a line with what it meets.

    ``(DRIVER)`` is put after each value that is the name of a node or device, and after the line
    the jobs that there are: `` beside j1(mirror, ready), slow0(backup, running)``.
    """
    drivers = {node["node-name"]: node["drv"] for node in items_in(seen[NODES])}
    for drive in items_in(seen[DRIVES]):
        if "inserted" in drive:
            drivers[str(drive.get("qdev")).rpartition("/")[2]] = drive["inserted"]["drv"]

    def named(match: re.Match[str]) -> str:
        name, colon = match.groups()
        return match[0] if colon or name not in drivers else f'"{name}({drivers[name]})"'

    jobs = [f"{job['id']}({job['type']}, {job['status']})" for job in items_in(seen[JOBS])]
    beside = f" beside {', '.join(jobs)}" if jobs else ""
    return _STRING.sub(named, line) + beside


def said_in(reply: bytes) -> Any:
    """Return what a query returned, or its error."""
    message = json.loads(reply)
    return message.get("return", message.get("error"))


def items_in(reply: bytes) -> list[dict[str, Any]]:
    """Return the list that a query returned; nothing of an error."""
    return list(json.loads(reply).get("return", ()))


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
        return {"error": error.desc.replace(f"{path.parent}/", "")}
    except OSError as error:
        return {"error": str(error.strerror)}
    return found
