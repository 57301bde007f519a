"""``blkxact image info``: what an image says of itself, for people or as JSON.

QEMU's counterpart: ``img_info`` in ``qemu-img.c``, ``bdrv_image_info_dump`` in ``block/qapi.c``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from blkxact.block.node import BlockNode
from blkxact.block.snapshot_table import snapshot_table
from blkxact.blockdev.info import image_info
from blkxact.image_tools.open_images import ImageName, Images, node_of, open_images
from blkxact.qapi.sizes import human_size
from blkxact.qapi.versions import exists
from blkxact.runtime.release import DEFAULT_RELEASE

from .image_arguments import add_force_share, add_format, add_output, image_name

Info = Mapping[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_format(parser)
    add_output(parser)
    add = parser.add_argument
    add("--backing-chain", action="store_true", help="show the image and all of its backing files")
    add_force_share(parser)
    add("filename", help="the image")


async def serve(args: argparse.Namespace) -> int:
    """Show it."""
    whole = args.backing_chain
    async with open_images(no_io=True, objects=args.objects) as images:
        infos = await chain_info(
            images, image_name(args), whole_chain=whole, force_share=args.force_share
        )
    print(as_json(infos, whole_chain=whole) if args.output == "json" else as_text(infos))
    return 0


async def chain_info(
    images: Images, image: ImageName, *, whole_chain: bool, force_share: bool
) -> list[Info]:
    """Return ImageInfo of the image and, with ``whole_chain``, of all below it.

    Raises ``QmpError``.
    """
    backend = await images.open(image, backing=whole_chain, force_share=force_share)
    node = node_of(backend)
    infos = [_info_of(node)]
    while node.backing is not None:
        node = node.backing
        infos.append(_info_of(node))
    return infos


def _info_of(node: BlockNode) -> Info:
    """Return ImageInfo; qemu-img's release may have nothing specific of plain files."""
    info = image_info(node)
    is_file = info.get("format-specific", {}).get("type") == "file"
    if is_file and not exists("ImageInfoSpecificFileWrapper", DEFAULT_RELEASE):
        del info["format-specific"]
    return info


def as_json(infos: list[Info], *, whole_chain: bool) -> str:
    """Return one object, or the list of a chain."""
    from blkxact.qmp.json_text import encode_text  # noqa: PLC0415 - a person needs no JSON

    return encode_text(infos if whole_chain else infos[0], indent=4)


def as_text(infos: list[Info]) -> str:
    """Return what a person reads, an empty line between two images."""
    return "\n\n".join("\n".join(_lines(info)) for info in infos)


def _lines(info: Info) -> Iterator[str]:
    yield f"image: {info['filename']}"
    yield f"file format: {info['format']}"
    size = info["virtual-size"]
    yield f"virtual size: {human_size(size)} ({size} bytes)"
    taken = info.get("actual-size")
    yield f"disk size: {'unavailable' if taken is None else human_size(taken)}"
    if info.get("encrypted"):
        yield "encrypted: yes"
    if "cluster-size" in info:
        yield f"cluster_size: {info['cluster-size']}"
    if info.get("dirty-flag"):
        yield "cleanly shut down: no"
    yield from _backing_lines(info)
    if "snapshots" in info:
        yield "Snapshot list:"
        yield from snapshot_table(info["snapshots"])
    specific = info.get("format-specific", {}).get("data")
    if specific:
        yield "Format specific information:"
        yield from _members(specific, 1)


def _backing_lines(info: Info) -> Iterator[str]:
    name = info.get("backing-filename")
    if name is None:
        return
    actual = info.get("full-backing-filename", name)
    yield f"backing file: {name}" + (f" (actual path: {actual})" if actual != name else "")
    if "backing-filename-format" in info:
        yield f"backing file format: {info['backing-filename-format']}"


def _members(members: Info, depth: int) -> Iterator[str]:
    for name, value in members.items():
        yield from _value(name.replace("-", " "), value, depth)


def _value(name: str, value: Any, depth: int) -> Iterator[str]:
    """Yield the line of one member, and those of what is in it."""
    indent = "    " * depth
    if isinstance(value, Mapping):
        yield f"{indent}{name}:"
        yield from _members(value, depth + 1)
    elif isinstance(value, list):
        yield f"{indent}{name}:"
        for index, item in enumerate(value):
            yield from _value(f"[{index}]", item, depth + 1)
    elif isinstance(value, bool):
        yield f"{indent}{name}: {str(value).lower()}"
    else:
        yield f"{indent}{name}: {value}"
