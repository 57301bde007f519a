"""``blkxact image snapshot``: the snapshots that an image keeps of itself."""

from __future__ import annotations

import argparse
from typing import Final

from blkxact.block.snapshot_table import snapshot_table
from blkxact.errors import QmpError, strerror
from blkxact.image_tools.open_images import Images, node_of, open_images
from blkxact.image_tools.snapshot import (
    apply_snapshot,
    create_snapshot,
    delete_snapshot,
    list_snapshots,
)
from blkxact.qmp.json_text import encode_text

from .errors import CliError
from .image_arguments import add_force_share, add_format, add_output, add_quiet, image_name

_REFUSALS: Final = {
    "create": "Could not create snapshot",
    "apply": "Could not apply snapshot",
    "delete": "Could not delete snapshot",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_format(parser)
    verbs = parser.add_mutually_exclusive_group()
    add = verbs.add_argument
    add("-l", dest="list", action="store_true", help="list the snapshots (default)")
    add("-c", dest="create", metavar="NAME", help="create a snapshot of the disk")
    add(
        "-a", dest="apply", metavar="NAME", help="set the disk to the snapshot with this name or id"
    )
    add("-d", dest="delete", metavar="NAME", help="delete the snapshot")
    add_output(parser)
    add_quiet(parser)
    add_force_share(parser)
    parser.add_argument("filename", help="the image")


async def serve(args: argparse.Namespace) -> int:
    """Do one thing with the snapshots."""
    verb = next((verb for verb in _REFUSALS if getattr(args, verb) is not None), None)
    if verb is not None and args.force_share:
        raise CliError("force-share=on can only be used with read-only images")
    async with open_images(objects=args.objects) as images:
        if verb is None:
            await _list(images, args)
        else:
            await _change(images, args, verb)
    return 0


async def _list(images: Images, args: argparse.Namespace) -> None:
    backend = await images.open(image_name(args), backing=False, force_share=args.force_share)
    snapshots = list_snapshots(node_of(backend))
    if args.output == "json":
        print(encode_text(snapshots, indent=4))
    elif snapshots:
        print("Snapshot list:")
        for line in snapshot_table(snapshots):
            print(line)


async def _change(images: Images, args: argparse.Namespace, verb: str) -> None:
    name = getattr(args, verb)
    refusal = _REFUSALS[verb]
    backend = await images.open(image_name(args), backing=False, resize=True)
    node = node_of(backend)
    try:
        if verb == "create":
            await create_snapshot(node, name, date_us=images.clock.realtime_us())
        elif verb == "apply":
            await apply_snapshot(node, name)
        else:
            await delete_snapshot(node, name)
        await images.finish(backend)
    except QmpError as error:
        raise CliError(f"{refusal} '{name}': {error.desc}") from error
    except OSError as error:
        raise CliError(f"{refusal} '{name}': -{error.errno} ({strerror(error)})") from error
