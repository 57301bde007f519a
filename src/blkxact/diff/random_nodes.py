"""Random commands on nodes, devices and exports."""

from __future__ import annotations

from typing import Any

from blkxact.qmp.json_text import encode_text

from .draw import (
    DEVICES,
    DISKS,
    EMPTY_DRIVE,
    EXPORT_IDS,
    EXPORTS,
    FILES,
    GROUPS,
    KIB,
    LIKELY,
    NODES,
    SIZE,
    SNAPSHOTS,
    Draw,
)
from .script import command

HUGE = 10**9
"""A limit that delays no request."""


def blockdev_add(draw: Draw, node: str | None = None) -> str:
    """Open an image, or a disk of zeroes."""
    there = [name for name in NODES if FILES.get(name, "") in {"", *draw.world.files}]
    node = node or draw.new(draw.world.nodes, *(there if draw.chance(LIKELY) else NODES))
    if node == "n":
        options = {"read_zeroes": True, **draw.maybe(read_only=[True])}  # or it reads as anything
        return command("blockdev-add", driver="null-co", node_name=node, size=SIZE, **options)
    options = {
        "driver": "raw" if FILES[node].endswith(".raw") else "qcow2",
        "node-name": node,
        "file": {"driver": "file", "filename": FILES[node], "node-name": f"{node}-file"},
        **draw.maybe(read_only=[False, False, False, True], discard=["unmap"]),
    }
    if draw.chance(0.3):
        unmaps = options.get("discard") == "unmap" or draw.chance(0.1)
        options["detect-zeroes"] = draw.pick("on", "unmap") if unmaps else "on"
    if node == "over" or (node.startswith("new") and draw.chance(0.5)):
        options |= draw.maybe(backing=[draw.node(), "base", None])
    return command("blockdev-add", **options)


def blockdev_del(draw: Draw) -> str:
    """Close a node."""
    return command("blockdev-del", node_name=draw.free_node())


def device_add(draw: Draw, device: str | None = None) -> str:
    """Plug in a disk, or a CD drive."""
    device = device or draw.new(draw.world.drives, *DEVICES)
    options = {"id": device, "bus": "scsi0.0"}
    if device == EMPTY_DRIVE:
        return command("device_add", driver="scsi-cd", **options)
    options["drive"] = draw.free_node()
    if device not in DISKS:
        return command("device_add", driver="scsi-cd", **options)
    more = draw.maybe(share_rw=[True], write_cache=["on", "off"])
    return command("device_add", driver="scsi-hd", **options, **more)


def device_del(draw: Draw) -> str:
    """Unplug a device."""
    return command("device_del", id=draw.device())


def medium(draw: Draw) -> str:
    """Open or close a tray, or put a medium in or take it out."""
    device = {"id": draw.pick("cd", EMPTY_DRIVE, EMPTY_DRIVE, *DISKS)}
    force = draw.maybe(force=[True, False])
    match draw.pick("open", "close", "insert", "remove", "change", "eject"):
        case "open":
            return command("blockdev-open-tray", **device, **force)
        case "close":
            return command("blockdev-close-tray", **device)
        case "insert":
            return command("blockdev-insert-medium", **device, node_name=draw.free_node())
        case "remove":
            return command("blockdev-remove-medium", **device)
        case "eject":
            return command("eject", **device, **force)
    return command(
        "blockdev-change-medium",
        **device,
        filename=draw.pick(*FILES.values()),
        **draw.maybe(format=["raw", "qcow2"], read_only_mode=["retain", "read-only", "read-write"]),
    )


def io(draw: Draw) -> str:
    """Let the guest write, or read, through its device."""
    offset = draw.below(SIZE, 4 * KIB)
    length = draw.pick(4 * KIB, 64 * KIB, 100 * KIB)
    verb = draw.pick(
        f"write -P {1 + draw.below(254)} {offset} {length}",
        f"write -P {1 + draw.below(254)} {offset} {length}",
        f"write -z {offset} {length}",
        f"write -z -u {offset} {length}",
        f"discard {offset} {length}",
        f"read {offset} {length}",
        "flush",
    )
    device = draw.device(*draw.pick(DISKS, DISKS, DISKS, DEVICES))
    line = f'qemu-io -d /machine/peripheral/{device} "{verb}"'
    return command("human-monitor-command", command_line=line)


def throttle(draw: Draw) -> str:
    """Limit a device."""
    which = {draw.pick("id", "id", "id", "device"): draw.device()}
    limits = {name: draw.pick(0, HUGE) for name in ("bps", "iops")}
    limits |= {
        name: draw.pick(*[0] * 9, HUGE) for name in ("bps_rd", "bps_wr", "iops_rd", "iops_wr")
    }
    if draw.chance(0.3):
        limits[draw.pick("bps_max", "iops_max", "iops_wr_max")] = draw.pick(2 * HUGE, 1)
    if draw.chance(0.1):
        limits[draw.pick("bps_max_length", "iops_size")] = draw.pick(1, 60)
    group = draw.maybe(group=GROUPS)
    return encode_text(
        {"execute": "block_set_io_throttle", "arguments": {**which, **limits, **group}}
    )


def snapshot_node(draw: Draw) -> str:
    """Put a node on top of another."""
    return command("blockdev-snapshot", node=draw.node(), overlay=draw.free_node())


def snapshot_sync(draw: Draw) -> str:
    """Make an image and put it on top of a node."""
    names = (*(node for node in NODES if node.startswith("new")), "new3")
    name = draw.new(draw.world.nodes, *names)
    return command(
        "blockdev-snapshot-sync",
        **({"node-name": draw.node()} if draw.chance(LIKELY) else {"device": draw.device()}),
        snapshot_file=f"{name}.qcow2",
        snapshot_node_name=name,
        **draw.maybe(
            format=["qcow2", "qcow2", "qcow2", "raw"], mode=["absolute-paths", "existing"]
        ),
    )


def internal(draw: Draw) -> str:
    """Make or delete an internal snapshot."""
    verb = draw.pick("blockdev-snapshot-internal-sync", "blockdev-snapshot-delete-internal-sync")
    return command(verb, device=draw.node(), name=draw.pick(*SNAPSHOTS))


def resize(draw: Draw) -> str:
    """Change the size of a node or of a device's disk."""
    size = draw.pick(0, 512, 1000, SIZE // 2, SIZE, SIZE, SIZE, SIZE, 2 * SIZE, -1)
    where = "node-name" if draw.chance(LIKELY) else "device"
    name = draw.device() if where == "device" else draw.node()
    return command("block_resize", **{where: name}, size=size)


def reopen(draw: Draw) -> str:
    """Change the options of a node."""
    images = ("a", "b", "t", "over", "new0", "new1")
    node = draw.likely([name for name in images if name in draw.world.nodes], *images)
    options: dict[str, Any] = {
        "driver": "qcow2",
        "node-name": node,
        "file": f"{node}-file",
        **draw.maybe(read_only=[True, False], discard=["unmap"], detect_zeroes=["on"]),
    }
    if below := draw.world.nodes.get(node):
        named = below if below in draw.world.nodes else None
        options["backing"] = draw.pick(named, draw.node(), None)
    elif node == "over":
        options |= draw.maybe(backing=["base", None, "a"])
    return command("blockdev-reopen", options=[options])


def backing_file(draw: Draw) -> str:
    """Change what an image's header says of its backing file."""
    return command(
        "change-backing-file",
        device=draw.overlay(),
        image_node_name=draw.overlay(),
        backing_file=draw.pick("base.qcow2", "a.qcow2", ""),
    )


def export(draw: Draw) -> str:
    """Add or remove an export."""
    node = draw.node()
    bitmaps: dict[str, Any] = {}
    match draw.pick("add", "add", "del", "server-add", "server-remove"):
        case "add":
            if draw.chance(0.4):
                bitmaps["bitmaps"] = [draw.bitmap(node) for _ in range(draw.pick(1, 2))]
            return command(
                "block-export-add",
                type="nbd",
                id=draw.new(draw.world.exports, *EXPORT_IDS),
                node_name=node,
                **bitmaps,
                **draw.maybe(writable=[True], name=EXPORTS, allocation_depth=[True]),
            )
        case "del":
            name = draw.likely(draw.world.exports, *EXPORT_IDS)
            return command("block-export-del", id=name, **draw.maybe(mode=["hard", "safe"]))
        case "server-add":
            if draw.chance(0.3):
                bitmaps["bitmap"] = draw.bitmap(node)
            return command(
                "nbd-server-add",
                device=node,
                **bitmaps,
                **draw.maybe(name=EXPORTS, writable=[True]),
            )
    return command(
        "nbd-server-remove",
        name=draw.likely(draw.world.exports, *EXPORTS, *NODES),
        **draw.maybe(mode=["hard", "safe"]),
    )


def throttle_group(draw: Draw) -> str:
    """Make or delete a throttle group."""
    if draw.chance(0.5):
        return command("object-del", id=draw.pick(*GROUPS))
    return command("object-add", qom_type="throttle-group", id=draw.pick(*GROUPS))
