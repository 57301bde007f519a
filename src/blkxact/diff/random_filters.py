"""Random commands on filters, and those that change what is below a node."""

from __future__ import annotations

from typing import Any

from .draw import FILES, FILTERS, GROUPS, IOTHREADS, KIB, NODES, SHORT_JOBS, SIZE, Draw
from .script import command


def filter_add(draw: Draw) -> str:
    """Put a filter, or an image within an image, on top of a node that may be in use."""
    below = draw.node()
    options: dict[str, Any] = draw.pick(*_FILTERS)(draw, below)
    name = draw.new(draw.world.nodes, *FILTERS)
    return command("blockdev-add", node_name=name, **options, **draw.maybe(read_only=[True, False]))


def _throttle(draw: Draw, below: str) -> dict[str, Any]:
    return {"driver": "throttle", "throttle_group": draw.pick(*GROUPS), "file": below}


def _copy_on_read(draw: Draw, below: str) -> dict[str, Any]:
    options = {"driver": "copy-on-read", "file": below}
    bottom = "base" if below == "over" else "nope"  # of one that is not below, QEMU 7.2 hangs
    return options | ({"bottom": bottom} if draw.chance(0.3) else {})


def _copy_before_write(draw: Draw, below: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "driver": "copy-before-write",
        "file": below,
        "target": draw.free_node(),
    }
    if draw.chance(0.3):
        node, name = draw.bitmap_at()
        options["bitmap"] = {"node": node, "name": name}
    return options | {
        name.replace("-", "_"): value
        for name, value in draw.maybe(
            on_cbw_error=["break-guest-write", "break-snapshot"], cbw_timeout=[0, 1]
        ).items()
    }


def _snapshot_access(_draw: Draw, below: str) -> dict[str, Any]:
    return {"driver": "snapshot-access", "file": below}


def _blkdebug(_draw: Draw, below: str) -> dict[str, Any]:
    return {"driver": "blkdebug", "image": below}


def _raw(draw: Draw, below: str) -> dict[str, Any]:
    return {
        "driver": "raw",
        "file": below,
        **draw.maybe(offset=[0, 64 * KIB, 100, SIZE], size=[64 * KIB, SIZE // 2, SIZE, 1000]),
    }


def _compress(_draw: Draw, below: str) -> dict[str, Any]:
    return {"driver": "compress", "file": below}


_FILTERS = (_throttle, _copy_on_read, _copy_before_write, _snapshot_access, _blkdebug, _raw,
            _compress)  # fmt: skip


def filter_insert(draw: Draw) -> str:
    """Put a filter between a device and its disk, or take it out.

    The disk that it has is not put in again: QEMU would abort.
    """
    device = draw.device("d0", "d1")
    path = f"/machine/peripheral/{device}"
    disk = draw.world.drives.get(device, "nope")
    chain = draw.world.nodes
    around = [name for name, below in chain.items() if below == disk or name == chain.get(disk)]
    node = draw.likely(around, draw.node())
    value = "nope" if node == disk else node
    return command("qom-set", path=path, property="drive", value=value)


def filter_reopen(draw: Draw) -> str:
    """Give several nodes other options, or other children.

    Each is named once: QEMU 10.0 would hold up the requests of one that is named twice for ever.
    """
    options: dict[str, dict[str, Any]] = {}
    for _ in range(draw.pick(1, 1, 2)):
        if draw.chance(0.5):
            name = draw.pick(*FILTERS)
            options[name] = {"driver": "throttle", "node-name": name, "file": draw.node(),
                             "throttle-group": draw.pick(*GROUPS)}  # fmt: skip
        else:
            name = draw.pick("a", "b", "over")
            file = draw.pick(f"{name}-file", f"{name}-file", draw.node())
            options[name] = {"driver": "qcow2", "node-name": name, "file": file,
                             **draw.maybe(backing=[None, draw.node()])}  # fmt: skip
    return command("blockdev-reopen", options=list(options.values()))


def change_child(draw: Draw) -> str:
    """Give a node another child, or take one away."""
    child = draw.maybe(child=["file", "backing", "children.0"], node=[draw.node()])
    return command("x-blockdev-change", parent=draw.node(), **child)


def amend(draw: Draw) -> str:
    """Change an image: nothing can be changed in one that is not encrypted."""
    options = {"driver": draw.pick("qcow2", "qcow2", "raw")}
    job = {"job_id": draw.pick(*SHORT_JOBS)}
    return command("x-blockdev-amend", node_name=draw.node(), options=options, **job)


def create(draw: Draw) -> str:
    """Make a file, or an image in a node."""
    job = draw.pick(*SHORT_JOBS)
    size = draw.pick(0, 64 * KIB, SIZE, SIZE, 1000)
    if draw.chance(0.4):
        name = draw.pick("new0", "new1", "new2")
        options: dict[str, Any] = {"driver": "file", "filename": FILES[name], "size": size}
        options |= draw.maybe(preallocation=["off", "full"])
    else:
        file = draw.pick(*(f"{node}-file" for node in NODES), draw.node())
        options = {"driver": "qcow2", "file": file, "size": size}
        options |= draw.maybe(
            version=["v2", "v3"],
            cluster_size=[4 * KIB, 64 * KIB, 1000],
            preallocation=["off", "metadata"],
            lazy_refcounts=[True, False],
            refcount_bits=[16, 1, 3],
            extended_l2=[True, False],
            backing_file=["base.qcow2"],
            backing_fmt=["qcow2"],
        )
    return command("blockdev-create", job_id=job, options=options)


def write_threshold(draw: Draw) -> str:
    """Ask for an event when something is written past an offset, or for none."""
    threshold = draw.pick(0, 64 * KIB, SIZE // 2, SIZE, -1)
    return command("block-set-write-threshold", node_name=draw.node(), write_threshold=threshold)


def iothread(draw: Draw) -> str:
    """Make or delete an iothread, or move a node to one."""
    name = draw.pick(*IOTHREADS)
    match draw.pick("add", "del", "set", "set"):
        case "add":
            return command("object-add", qom_type="iothread", id=name)
        case "del":
            return command("object-del", id=name)
    return command(
        "x-blockdev-set-iothread",
        node_name=draw.node(),
        iothread=draw.pick(name, None),
        **draw.maybe(force=[True, False]),
    )
