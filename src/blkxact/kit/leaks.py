"""What a test leaves behind: the difference between what is there at its start and at its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.image_tools.check import NoChecksError, check
from blkxact.image_tools.open_images import ImageName, open_images

MOST_MESSAGES: Final = 3
"""Messages of a check that are shown."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The things that an emulator holds: kind to name to what is said of it."""

    things: dict[str, dict[str, str]]

    def with_those_of(self, disk: str, later: Inventory) -> Inventory:
        """Return this with what was added since, which is all that a new disk is made of.

        What other clients have added meanwhile is not of it.
        """
        mine = ("node", "device")
        added = {
            kind: {
                name: said
                for name, said in later.things[kind].items()
                if name in (disk, f"device-{disk}") or said.endswith(f"at {disk}.file")
            }
            for kind in mine
        }
        merged = {kind: {**self.things[kind], **added[kind]} for kind in mine}
        return Inventory({**self.things, **merged})

    def beyond(self, earlier: Inventory) -> Iterator[tuple[str, str]]:
        """Yield the kind and the description of what is here and was not there."""
        for kind, found in self.things.items():
            known = earlier.things[kind]
            for name, said in found.items():
                if name not in known:
                    yield kind, f"{kind} {name!r} is left behind" + (f" ({said})" if said else "")


def take_inventory(layer: BlockLayer) -> Inventory:
    """Return what there is."""
    nodes = [*layer.graph.nodes.values(), *layer.graph.unlisted.values()]
    return Inventory(
        {
            "job": {str(name): f"status {job.status}" for name, job in layer.jobs.items()},
            "transaction": {str(txn.id): "" for txn in layer.transactions},
            "busy bitmap": {
                f"{node.address}/{bitmap.name}": ""
                for node in nodes
                for bitmap in node.bitmaps.values()
                if bitmap.busy
            },
            "export": {export["id"]: "" for export in layer.exports.query()},
            "device": {
                backend.qdev_id or backend.name or repr(backend): "" for backend in layer.backends
            },
            "node": {
                node.node_name: f"driver {node.driver.format_name}, at {node.address}"
                if node.open_driver
                else "being opened"
                for node in nodes
            },
            "descriptor": dict.fromkeys(layer.descriptors.names(), ""),
        }
    )


async def check_images(paths: list[Path], *, leaks: bool) -> list[str]:
    """Return what is wrong with images; leaked clusters only with ``leaks``."""
    wrong: list[str] = []
    async with open_images() as images:
        for path in paths:
            try:
                found = (await check(images, ImageName(str(path)))).found
            except NoChecksError:
                continue
            except (QmpError, OSError) as error:
                wrong.append(f"image {path} cannot be checked: {error}")
                continue
            if found.corruptions or found.check_errors:
                wrong.append(
                    f"image {path} is corrupt: {'; '.join(found.messages[:MOST_MESSAGES])}"
                )
            elif leaks and found.leaks:
                wrong.append(f"image {path} has {found.leaks} leaked clusters")
    return wrong
